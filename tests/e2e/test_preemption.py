"""More sequences than the KV cache holds: some are preempted and computed again, with the same bits.
Uses a worker and a router as separate commands, because the worker's metrics count preemptions."""

import threading
import urllib.request

import pytest

from support.cluster import MODEL, Process, metric_sum
from support.offline import generate
from support.processes import eventually
from support.rest import Rest

# 16 sequences of 64 + 96 tokens need 80 blocks of 32 tokens; the cache has 24 or so.
REQUESTS = [
    dict(prompt=f"Chapter {i}. " + "The rain fell on the old stone bridge and the river rose. " * 4,
         max_tokens=96, ignore_eos=True, temperature=temperature, seed=i, logprobs=1,
         return_token_ids=True, cache_salt=str(i))
    for i in range(8) for temperature in (0, 0.8)]
SMALL = ("--kv-cache-memory", "18MiB", "--max-model-len", 512)


@pytest.fixture(scope="module")
def undisturbed():
    """With room for all."""
    return [answer["choices"] for answer in generate(REQUESTS, "--kv-cache-memory", "256MiB")]


@pytest.fixture(scope="module")
def pair():
    worker = Process("worker", "--model", MODEL, "--port", 0, "--operator-port", 0, *SMALL)
    router = None
    try:
        port = worker.wait_for_line(r"worker plane on [^:]+:(\d+)")[1]
        operator = worker.wait_for_line(r"metrics on (http://\S+)")[1]
        router = Process("router", "--workers", f"127.0.0.1:{port}", "--port", 0, "--grpc-port", 0,
                         "--operator-port", 0)
        http = int(router.wait_for_line(r"http://[^:]+:(\d+) ")[1])
        rest = Rest(http)
        eventually(lambda: rest.get("/ready").status == 200, 120, "the router is ready")
        yield rest, operator
        assert router.stop() == 0, router.log
        assert worker.stop() == 0, worker.log
    finally:
        worker.kill()
        if router:
            router.kill()


def test_offline(undisturbed):
    assert [a["choices"] for a in generate(REQUESTS, *SMALL)] == undisturbed


def test_server(undisturbed, pair):
    rest, operator = pair
    results = [None] * len(REQUESTS)

    def ask(i):
        results[i] = rest.complete(**REQUESTS[i])["choices"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(REQUESTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    with urllib.request.urlopen(operator) as metrics:
        text = metrics.read().decode()
    # Without a preemption this test would show nothing.
    assert metric_sum(text, "vllm:num_preemptions_total") > 0
    assert results == undisturbed
