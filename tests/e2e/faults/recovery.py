"""How long failures last: workers are killed under load, one at a time, and started again at once.
Usage: recovery.py [KILLS], with 20 by default; prints p50 and max of

  next token   from the kill to the next token of each stream that ran on the killed worker
  serves       from the kill to the worker taking requests again, as the router says (looked at
               every 20 ms)
"""

import random
import re
import statistics
import sys
import tempfile
import time

from conftest import Site
from load import Undisturbed, wait_for_end
from support.processes import eventually
from support.stubs import make_stubs


def moved(router, since):
    """By request id: when the router sent each stream on, after `since`."""
    found = {}
    for line in list(router.lines):
        match = re.match(r"(\S+ \S+) D .* request (\S+) goes to replica \S+ as \S+\.([2-9]):", line)
        if match:
            clock, fraction = match[1].split(".")
            at = time.mktime(time.strptime(clock, "%Y-%m-%d %H:%M:%S")) + float(f"0.{fraction}")
            if at >= since - 0.001:
                found.setdefault(match[2], at)
    return found


def measure(site, kills, dice):
    site.add_workers(2)
    router = site.add_router()
    load = site.load()
    gaps, restarts = [], []
    for _ in range(kills):
        load.wait_until_busy()
        time.sleep(dice.uniform(0, 0.5))
        hit = load.live()
        worker = dice.choice(site.workers)
        site.wait_until_hit(worker, load)
        start = time.time()
        worker.kill()
        again = site.restart(worker)
        eventually(lambda: again.pid in router.ready_pids(), 60, "it serves again")
        restarts.append(time.time() - start)
        wait_for_end(hit)
        replayed = moved(router, start)
        for ask in hit:
            after = [t for t in ask.times if t >= replayed.get(ask.id, float("inf"))]
            if after:
                gaps.append(after[0] - start)
    whole = load.stop(timeout=120).check()
    site.stop()
    print(f"{kills} kills, {len(whole)} streams, {sum(a.said.num_tokens for a in whole)} tokens: "
          "none lost, none changed")
    for name, values in ("next token", gaps), ("serves", restarts):
        print(f"{name:12} p50 {statistics.median(values):.2f} s  max {max(values):.2f} s  "
              f"({len(values)} values)")


def main(kills):
    with tempfile.TemporaryDirectory() as folder:
        site = Site(make_stubs(folder), Undisturbed())
        try:
            measure(site, kills, random.Random(16))
        finally:
            site.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
