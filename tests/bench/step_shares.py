"""Where the time of engine steps goes: a table from the file of --step-trace.

  build/release/paceline bench MODEL --batch 16 --step-trace t.json && python3 tests/bench/step_shares.py t.json
  python3 tests/bench/step_shares.py t.json t.rank1.json    # of a worker of several ranks: who waits how long

Shares are of the time from a step's beginning to the next one's when that follows at once (less than
--idle-ms later), so what happens between steps counts too. `model` is forward and logits; the rest is overhead.
Only steps of the commonest number of rows are counted, unless --rows says otherwise.
"""

import argparse
import collections
import json
import statistics
import sys

MODEL_PHASES = ("forward", "logits")
PHASES = ("inbox", "schedule", "prepare", "forward", "logits", "sampling", "commit", "frames")
PARTS = ("qkv", "attention", "output", "mlp")


def read_steps(path):
    """[(start, end, rows, {name: microseconds on the engine's thread})] in order of time."""
    spans = [e for e in json.load(open(path)) if e["ph"] == "X" and e["tid"] == 0]
    spans.sort(key=lambda e: (e["ts"], -e["dur"]))
    steps, before = [], []
    for span in spans:
        if span["name"] == "step":
            rows = span["args"]["decode_tokens"] + span["args"]["prefill_tokens"]
            steps.append((span["ts"], span["ts"] + span["dur"], rows, collections.Counter()))
            for early in before:
                steps[-1][3][early["name"]] += early["dur"]
            before = []
        elif span["name"] == "inbox":  # comes before its step
            before.append(span)
        elif steps:
            steps[-1][3][span["name"]] += span["dur"]
    return steps


WAITS = ("await plan", "receive", "send")


def busy_times(leader, idle_ms):
    """Times in which the leader had steps, without gaps of --idle-ms or more: [(begin, end)]."""
    times = []
    for begin, end in sorted((e["ts"], e["ts"] + e["dur"]) for e in leader if e["name"] == "step"):
        if times and begin - times[-1][1] < idle_ms * 1000:
            times[-1][1] = max(times[-1][1], end)
        else:
            times.append([begin, end])
    return times


def print_bubbles(paths, idle_ms):
    """How much of the leader's busy time each rank waited for others. The first file is the leader's."""
    traces = [[e for e in json.load(open(path)) if e["ph"] == "X" and e["tid"] == 0] for path in paths]
    times = busy_times(traces[0], idle_ms)
    total = sum(end - begin for begin, end in times)
    print(f"{total / 1e6:.2f} s with steps under way; of it each rank was in, percent")
    print(f"{'rank':>5} {'forward':>9} {'logits':>9} {'waiting':>9}  ({', '.join(WAITS)})")
    for rank, spans in enumerate(traces):
        sums = collections.Counter()
        for span in spans:
            begin, end = span["ts"], span["ts"] + span["dur"]
            inside = sum(max(0, min(end, b) - max(begin, a)) for a, b in times if a < end and begin < b)
            sums["waiting" if span["name"] in WAITS else span["name"]] += inside
            if rank == 0 and span["name"] == "receive":
                sums["logits"] -= inside  # the leader receives them inside
        print(f"{rank:5}" + "".join(f"{100 * sums[name] / total:10.1f}" for name in ("forward", "logits", "waiting")))


def print_device_idle(path):
    """On a GPU: how long it did nothing between steps, those included that followed a pause."""
    idle = [e["args"]["ns"] / 1000 for e in json.load(open(path)) if e["ph"] == "X" and e["name"] == "device idle"]
    if len(idle) > 1:
        print(f"device idle before a step: median {statistics.median(idle):.1f} us, "
              f"90 % below {statistics.quantiles(idle, n=10)[-1]:.1f} us")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="+", help="one; or those of all ranks, the leader's first: how long each waits")
    parser.add_argument("--rows", type=int, help="count steps of so many rows only; 0: all")
    parser.add_argument("--idle-ms", type=float, default=2)
    args = parser.parse_args()

    if len(args.trace) > 1:
        print_bubbles(args.trace, args.idle_ms)
        return
    steps = read_steps(args.trace[0])
    if len(steps) < 2:
        sys.exit("the trace has no two steps")
    rows = args.rows
    if rows is None:
        rows = collections.Counter(step[2] for step in steps).most_common(1)[0][0]
    chosen = []  # (microseconds to the next step, phases)
    for step, after in zip(steps, steps[1:]):
        gap = after[0] - step[1]
        if gap < args.idle_ms * 1000 and rows in (0, step[2]):
            chosen.append((after[0] - step[0], step[3]))
    if not chosen:
        sys.exit(f"no step of {rows} rows is followed by another")
    total = sum(length for length, _ in chosen)
    print(f"{len(chosen)} steps of {rows or 'any'} rows, median {statistics.median(t for t, _ in chosen):.0f} us")
    print(f"{'phase':12} {'us a step':>10} {'share':>8}")

    def line(name, microseconds):
        print(f"{name:12} {microseconds / len(chosen):10.1f} {100 * microseconds / total:7.2f}%")

    sums = collections.Counter()
    for _, phases in chosen:
        sums.update(phases)
    for name in PHASES:
        line(name, sums[name])
        if name == "forward":
            for part in PARTS:
                line("  " + part, sums[part])
    line("between", total - sum(sums[name] for name in PHASES))
    line("overhead", total - sum(sums[name] for name in MODEL_PHASES))
    print_device_idle(args.trace[0])


if __name__ == "__main__":
    main()
