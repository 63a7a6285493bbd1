"""Stopping in good order, one after the other, under load: nothing is lost, nothing even moves."""

import os
import signal
import time

import pytest

from conftest import PATIENT
from load import LONG_ANSWER, wait_for_end
from support.processes import eventually
from support.rest import Rest


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.long)])
def test_rolling_restart(site, rounds):
    """Each worker gets SIGTERM: it ends when its streams have ended, with status 0."""
    site.add_workers(2)
    router = site.add_router()
    load = site.load()
    for _ in range(rounds):
        for worker in list(site.workers):
            load.wait_until_busy()
            worker.signal(signal.SIGTERM)
            assert worker.wait(120) == 0, worker.log
            site.restart(worker)
            site.wait_until_ready()
    whole = load.stop().check()
    print(f"{2 * rounds} restarts: {len(whole)} streams, {sum(a.said.num_tokens for a in whole)} tokens")
    # None unless a worker was starved for its lease by other work on the machine.
    print(f"{router.metric('paceline_router_resumed_tokens_total'):.0f} tokens computed again")
    site.stop()


@pytest.mark.parametrize("how", [
    "a second signal", pytest.param("the time is over", marks=pytest.mark.long)])
def test_what_does_not_end_in_time_moves(site, how):
    site.add_workers(2, *PATIENT, "--drain-seconds", 300 if how == "a second signal" else 1)
    router = site.add_router()
    load = site.load()
    asks = [load.ask(LONG_ANSWER) for _ in range(4)]
    eventually(lambda: all(ask.times for ask in asks), 120, "they run")
    worker = site.worker_of(asks[0])
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("stopping")
    eventually(lambda: worker.pid not in router.ready_pids(), 120, "it gets nothing new")
    if how == "a second signal":
        assert worker.popen.poll() is None
        before = [ask.said.num_tokens for ask in asks]
        eventually(lambda: all(ask.is_over or ask.said.num_tokens > n
                               for ask, n in zip(asks, before)), 120, "its streams go on")
        assert router.metric("paceline_router_resumed_tokens_total") == 0
        assert not asks[0].is_over
        worker.signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    site.restart(worker)
    wait_for_end(asks)
    load.stop().check()
    assert router.metric("paceline_router_resumed_tokens_total") > 0
    site.stop()


def test_a_router_that_stops(site):
    """Not ready at once, its streams end, and then it does, within a second."""
    site.add_workers(2)
    router = site.add_router("--drain-seconds", 300)
    site.add_router()
    load = site.load()
    load.wait_until_busy()
    ask = load.ask(LONG_ANSWER)
    eventually(lambda: ask.times, 120, "it runs")
    router.signal(signal.SIGTERM)
    start = time.monotonic()
    eventually(lambda: Rest(router.port).get("/ready").status == 503, 120, "it is not ready")
    unready = time.monotonic() - start
    # Its clients ask the other one from now on; until then they are told.
    assert router.wait(120) == 0
    ended = time.time()
    last = max(ask.times[-1] for ask in load.asked if ask.server is router and ask.times)
    load.stop().check(errors=["draining"], broken=[router])
    for ask in load.asked:
        assert ask.error != "draining" or not ask.times, "an accepted stream was ended"
        assert ask.failure is None or not ask.times, "an accepted stream was cut"
    print(f"not ready after {unready * 1000:.0f} ms; ended {(ended - last) * 1000:.0f} ms after the "
          "last token")
    site.routers.remove(router)
    site.stop()


@pytest.mark.long
def test_a_worker_that_comes_and_goes(site):
    """On the same port, again and again: the router keeps nothing of those that are gone."""
    site.add_workers(1)
    router = site.add_router()

    def come_and_go(times):
        for _ in range(times):
            worker, = site.workers
            worker.signal(signal.SIGTERM)
            assert worker.wait(120) == 0, worker.log
            site.restart(worker)
            site.wait_until_ready()
        return len(os.listdir(f"/proc/{router.pid}/fd")), len(os.listdir(f"/proc/{router.pid}/task"))

    shared = set(os.listdir("/dev/shm"))
    descriptors, threads = come_and_go(5)
    more_descriptors, more_threads = come_and_go(20)
    assert more_descriptors <= descriptors + 2 and more_threads <= threads + 2
    assert not {name for name in set(os.listdir("/dev/shm")) - shared if "paceline" in name}
    site.stop()
