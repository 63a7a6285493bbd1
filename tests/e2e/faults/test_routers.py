"""Two routers over the same workers: they share them, and when one goes the other does not notice."""

import signal
import urllib.request

import pytest

from conftest import PATIENT
from load import LONG_ANSWER
from support.cluster import metric_sum
from support.processes import eventually, free_port


@pytest.fixture(params=[()])
def pair(site, request):
    """Two workers with an operator port, under two routers."""
    ports = []
    for _ in range(2):
        ports.append(free_port())
        site.add_worker("--operator-port", ports[-1], *request.param)
    site.add_router()
    site.add_router()

    def metric(name):
        total = 0
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                total += metric_sum(answer.read().decode(), name)
        return total
    return site, metric


@pytest.mark.parametrize("pair", [PATIENT], indirect=True, ids=["patient"])
def test_one_is_killed(pair):
    """Its clients see broken connections, ask the other one, and are answered; the workers forget
    what it had asked for."""
    site, metric = pair
    first, second = site.routers
    load = site.load()
    eventually(lambda: any(ask.server is first for ask in load.in_the_midst()), 120, "it streams")
    first.signal(signal.SIGKILL)
    first.wait()
    before = len(load.asked)
    eventually(lambda: len(load.asked) > before + 16, 120, "its clients ask the other one")
    whole = load.stop().check(broken=[first])
    assert all(ask in whole for ask in load.asked if ask.server is second)
    assert any(ask.failure for ask in load.asked)
    eventually(lambda: metric("vllm:num_requests_running") == metric("vllm:kv_cache_usage_perc") == 0, 120,
               "nothing runs for the dead one")
    assert second.metric("paceline_router_failovers_total") == 0
    site.routers.remove(first)
    site.stop()


@pytest.mark.long
def test_one_is_frozen(pair):
    """Its lease ends and what it had asked for with it. When it goes on, so do its streams."""
    site, metric = pair
    first, second = site.routers
    load = site.load(second)
    mine = site.load(first)
    asks = [mine.ask(LONG_ANSWER, is_http=i % 2 == 0) for i in range(4)]
    eventually(lambda: all(ask.times for ask in asks), 120, "they run")
    mine.stop_asking()
    first.signal(signal.SIGSTOP)
    eventually(lambda: metric("paceline_worker_sessions") == 2, 120, "both workers give it up")
    wait = load.wait_until_busy(4)
    eventually(lambda: all(ask.is_over for ask in wait), 120, "the other one goes on")
    first.signal(signal.SIGCONT)
    mine.stop().check()
    load.stop().check()
    assert all(ask.error is None for ask in asks)
    site.stop()


@pytest.mark.long
def test_they_share_fairly(site):
    """One that has filled the worker and has more to send leaves the other its share."""
    site.add_worker("--max-num-seqs", 8, "--max-num-batched-tokens", 256)
    first, second = site.add_router(), site.add_router()
    loads = [site.load(first, seed=seed) for seed in range(2)]  # 32 streams: ten run, the others wait
    eventually(lambda: first.waiting() >= 8, 120, "the first has more than fits")
    late = site.load(second)
    eventually(lambda: sum(ask.is_over for ask in late.asked) >= 16, 120, "the second is served")
    since = min(ask.times[0] for ask in late.asked if ask.times)
    answered = [sum(ask.is_over and ask.times[-1] > since for load in part for ask in load.asked)
                for part in (loads, [late])]
    print(f"answered while both asked: {answered}")
    for load in [*loads, late]:
        load.stop().check()
    assert answered[1] > answered[0] / 3
    site.stop()
