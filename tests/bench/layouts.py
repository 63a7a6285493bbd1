"""Layouts of two cores beside each other: one rank, tensor ranks, pipeline stages, replicas.

The load is that of http_load.py: closed-loop users, streamed greedy completions. In each round every layout's `serve`
is started anew, in turn, and loaded for --warm-up and --seconds; the order alternates. Printed: output tokens per
second, medians over rounds, and their ratio to the first layout's in the same round.

  .venv/bin/python tests/bench/layouts.py --users 1,16,64
  sudo chrt -f 10 .venv/bin/python tests/bench/layouts.py --users 16 --pause 5    # beside other work
"""

import argparse
import statistics
import time

from http_load import ROOT, Server, free_port, make_prompts, measure

LAYOUTS = {"1 rank": ("--threads", 1), "2 threads": ("--threads", 2), "-tp 2": ("-tp", 2, "--threads", 1),
           "-tp 2 fast": ("-tp", 2, "--tensor-parallel-mode", "fast", "--threads", 1),
           "-pp 2": ("-pp", 2, "--threads", 1), "2 replicas": ("--replicas", 2, "--threads", 1)}


def start(args, layout):
    port = free_port()
    kv = 4 * args.users * (args.prompt_tokens + args.output_tokens) * 24
    command = [args.paceline, "serve", args.model, "--port", port, "--grpc-port", 0, "--operator-port", 0,
               "--drain-seconds", 0, "--log-level", "warn", "--lease-ms", 60000, "--kv-cache-memory", f"{kv}KiB",
               *LAYOUTS[layout], *args.option]
    return Server(layout, command, port, args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paceline", default=str(ROOT / "build/release/paceline"))
    parser.add_argument("--model", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--layouts", default=",".join(LAYOUTS), help="which, by commas; ratios are to the first")
    parser.add_argument("--users", default="1,16,64", help="by commas")
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=float, default=2)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--pause", type=float, default=0, help="seconds between two servers")
    parser.add_argument("--option", type=str.split, default=[], help="more options of serve, in one string")
    args = parser.parse_args()
    args.prefix, args.log, args.requests = [], None, 60
    args.others, args.patience, args.cores = 1000, 1, 2  # every second counts

    layouts = args.layouts.split(",")
    for users in map(int, args.users.split(",")):
        args.users = users
        prompts = make_prompts(args)
        rates = {layout: [] for layout in layouts}
        for i in range(args.rounds):
            for layout in layouts if i % 2 == 0 else reversed(layouts):
                with start(args, layout) as server:
                    rates[layout].append(measure(server, prompts, args)["output_tokens_per_s"])
                time.sleep(args.pause)
        for layout in layouts:
            ratios = [a / b for a, b in zip(rates[layout], rates[layouts[0]])]
            print(f"{users:4} users  {layout:12} {statistics.median(rates[layout]):8.0f} tok/s  "
                  f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} .. {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
