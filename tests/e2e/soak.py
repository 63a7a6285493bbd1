"""Load for minutes: 64 streams at once, half over HTTP and half over gRPC, each asking again as soon as
it is answered. Every answer must be, to the bit, what the same server said when it was asked one by
one; no request may fail; no process may grow. Usage: soak.py [MINUTES], with 5 by default."""

import random
import sys
import tempfile
import threading
import time

from support import answers
from support.cluster import Cluster
from support.processes import rss_bytes
from support.rest import Rest
from support.streams import GrpcStream, HttpStream
from support.stubs import make_stubs

NUM_STREAMS = 64
REPORT_SECONDS = 10
SETTLE_SECONDS = 60  # until then caches, pools and arenas fill
# What a process may have more at the end than when it had settled: less than a leak of 2 KiB per
# request would make in five minutes on a small machine.
MAX_GROWTH_BYTES = 4 << 20
# Small, so that it is full at once and sequences are preempted.
OPTIONS = ("--max-model-len", 1024, "--kv-cache-memory", "64MiB")

SENTENCE = "The ferry was late again, and the people on the pier talked about the weather. "


def make_requests():
    """Short and medium prompts, greedy and sampled; some share beginnings of several blocks."""
    dice = random.Random(1)
    requests = []
    for i in range(48):
        prompt = f"Question {i}: why is the sea salty?" if i % 3 == 0 else SENTENCE * (i % 9) + f"Day {i}:"
        how = dict(temperature=0) if i % 2 == 0 else dict(temperature=0.8, top_p=0.95, seed=i)
        requests.append(dict(prompt=prompt, max_tokens=dice.randint(4, 64), logprobs=1,
                             return_token_ids=True, **how))
    return requests


class Counts:
    def __init__(self):
        self._lock = threading.Lock()
        self.requests = self.tokens = self.errors = self.wrong = 0
        self.first_problem = None

    def add(self, stream, wanted):
        got = stream.tokens if stream.is_complete else None
        with self._lock:
            self.requests += 1
            if got is None:
                self.errors += 1
                problem = f"{stream.error or stream.failure}: {stream.body}"
            else:
                self.tokens += sum(len(choice.ids) for choice in got.values())
                if got == wanted:
                    return
                self.wrong += 1
                problem = f"{stream.body}:\n  got    {got}\n  wanted {wanted}"
            self.first_problem = self.first_problem or problem


def ask_again_and_again(number, cluster, pb, requests, wanted, counts, is_over):
    dice = random.Random(number)
    while not is_over.is_set():
        i = dice.randrange(len(requests))
        if number % 2 == 0:
            stream = HttpStream(cluster.port, requests[i])
        else:
            stream = GrpcStream(cluster.grpc_address, pb, requests[i])
        stream.run()
        counts.add(stream, wanted[i])


def report(start, counts, sizes):
    mebibytes = "  ".join(f"{name} {size / (1 << 20):.1f}" for name, size in sizes.items())
    print(f"{time.monotonic() - start:6.0f} s  {counts.requests} requests  {counts.tokens} tokens  "
          f"{counts.errors} errors  {counts.wrong} wrong  RSS (MiB): {mebibytes}", flush=True)


def main(minutes):
    requests = make_requests()
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
    cluster = Cluster(*OPTIONS)
    try:
        processes = {"serve": cluster.pid}
        for i, pid in enumerate(cluster.workers()):
            processes[f"worker{i}"] = pid
        rest = Rest(cluster.port)
        wanted = [{0: answers.from_choice(rest.complete(**request)["choices"][0])}
                  for request in requests]
        print(f"{len(requests)} answers recorded", flush=True)

        counts = Counts()
        is_over = threading.Event()
        threads = [threading.Thread(target=ask_again_and_again, daemon=True,
                                    args=(n, cluster, pb, requests, wanted, counts, is_over))
                   for n in range(NUM_STREAMS)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        settled = None
        while (passed := time.monotonic() - start) < minutes * 60:
            time.sleep(REPORT_SECONDS)
            sizes = {name: rss_bytes(pid) for name, pid in processes.items()}
            report(start, counts, sizes)
            if settled is None and passed + REPORT_SECONDS >= SETTLE_SECONDS:
                settled = sizes
        is_over.set()
        for thread in threads:
            thread.join(60)

        growth = {name: sizes[name] - size for name, size in (settled or sizes).items()}
        problems = [f"{counts.errors} errors, {counts.wrong} wrong answers; the first: "
                    f"{counts.first_problem}"] if counts.first_problem else []
        problems += [f"{name} grew by {grown} bytes" for name, grown in growth.items()
                     if grown > MAX_GROWTH_BYTES]
        if set(processes.values()) != set(cluster.pids()):
            problems.append("a worker was restarted")
        if any(thread.is_alive() for thread in threads):
            problems.append("a stream does not end")
        if cluster.stop() != 0:
            problems.append(f"serve did not end well:\n{cluster.log}")
        print("growth after the first minute: " +
              ", ".join(f"{name} {grown / (1 << 20):+.1f} MiB" for name, grown in growth.items()))
        print("\n".join(["FAILED", *problems]) if problems else "passed")
        return 1 if problems else 0
    finally:
        cluster.kill()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5))
