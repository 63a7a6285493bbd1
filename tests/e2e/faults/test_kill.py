"""Workers and ranks that are killed or frozen under load. No stream is lost and no byte changes."""

import os
import signal
import time

import pytest

from conftest import PATIENT
from load import LONG_ANSWER, LONG_PROMPT, wait_for_end
from support.processes import eventually, is_alive


def kill(worker):
    worker.signal(signal.SIGKILL)
    worker.wait()


def again_and_again(site, load, dice, count, strike):
    """`strike(worker)` so often, at random times. Each only when what ran at the last one has ended:
    what is there whenever a worker dies is rightly refused in the end."""
    for _ in range(count):
        load.wait_until_busy()
        time.sleep(dice.uniform(0, 0.5))
        worker = dice.choice(site.workers)
        site.wait_until_hit(worker, load)
        hit = load.open()
        strike(worker)
        site.wait_until_ready()
        wait_for_end(hit)


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.long)])
def test_workers_killed_at_random_times(site, dice, count):
    site.add_workers(2, *PATIENT)
    site.add_router()
    load = site.load()

    def strike(worker):
        kill(worker)
        site.restart(worker)

    again_and_again(site, load, dice, count, strike)
    site.check_whole(load, count)


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.long)])
def test_workers_frozen_for_longer_than_their_lease(site, dice, count):
    """Their streams go on elsewhere; when they go on themselves, nobody hears what they still say."""
    site.add_workers(2)
    router = site.add_router()
    load = site.load()

    def strike(worker):
        hit = load.live()
        worker.signal(signal.SIGSTOP)
        eventually(lambda: worker.pid not in router.ready_pids(), 120, "its silence is noticed")
        wait_for_end(hit)
        worker.signal(signal.SIGCONT)

    again_and_again(site, load, dice, count, strike)
    site.check_whole(load, count)


def test_all_workers_killed(site):
    site.add_workers(2, *PATIENT)
    site.add_router()
    load = site.load()
    load.wait_until_busy()
    for worker in site.workers:
        worker.signal(signal.SIGKILL)
    for worker in list(site.workers):
        worker.wait()
        site.restart(worker)
    site.wait_until_ready()
    # Those who come while nobody is there are told so, unless somebody is back in time.
    site.check_whole(load, 2, errors=["no_ready_replica"])


@pytest.mark.parametrize("rank, how", [
    (1, signal.SIGKILL),
    pytest.param(0, signal.SIGKILL, marks=pytest.mark.long),
    pytest.param(0, signal.SIGSTOP, marks=pytest.mark.long),
    pytest.param(1, signal.SIGSTOP, marks=pytest.mark.long)])
def test_a_rank_of_a_group(site, rank, how):
    """Its streams go on at a replica of another layout; the group is back by itself."""
    group = site.add_worker("-tp", 2, "--threads", 1, *PATIENT)
    site.add_workers(1, *PATIENT)
    site.add_router()
    load = site.load()
    load.wait_until_busy()
    before = group.ranks
    site.wait_until_hit(group, load)
    os.kill(before[rank], how)
    eventually(lambda: not any(map(is_alive, before)), 120, "the group has ended")
    eventually(lambda: len(group.ranks) == 2, 120, "and begins anew")
    site.wait_until_ready()
    site.check_whole(load, 1)


def test_killed_in_the_prefill(site):
    site.add_workers(2, *PATIENT)
    site.add_router()
    load = site.load()
    rounds = []

    def is_in_time():
        load.wait_until_busy()
        # Its own salt: it is computed, not found in the prefix cache.
        rounds.append(load.ask(LONG_PROMPT, cache_salt=f"round {len(rounds)}"))
        worker = site.worker_of(rounds[-1])
        site.wait_until_hit(worker, load)
        hit = load.open()
        kill(worker)
        in_time = not rounds[-1].times
        site.restart(worker)
        site.wait_until_ready()
        wait_for_end(hit)  # what is there whenever a worker dies is rightly refused in the end
        return in_time
    eventually(is_in_time, 600, "a worker dies before the first token")
    site.check_whole(load, len(rounds))


@pytest.mark.long
def test_killed_at_the_last_tokens(site, undisturbed):
    site.add_workers(2, *PATIENT)
    site.add_router()
    load = site.load()
    ask = load.ask(LONG_PROMPT)
    worker = site.worker_of(ask)
    last = undisturbed.answer(ask.index, ask.is_http).num_tokens
    eventually(lambda: ask.said.num_tokens >= last - 2, 120, "it is about to end")
    site.wait_until_hit(worker, load)
    kill(worker)
    site.restart(worker)
    site.check_whole(load, 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_another_loss_while_streams_move(site, how):
    """One that leaves in good order costs nothing. One that dies may cost what ran on both, which is
    told so and not tried on a third."""
    site.add_workers(3, "--threads", 1, *PATIENT)
    site.add_router()
    load = site.load()
    load.wait_until_busy()
    ask = load.ask(LONG_ANSWER)
    eventually(lambda: ask.times, 120, "it runs")
    site.worker_of(ask).signal(signal.SIGKILL)
    second = site.worker_of(ask, attempt=2)
    # One that dies before it has the request is not suspected: only tokens tell that it has.
    moved = ask.said.num_tokens
    eventually(lambda: ask.said.num_tokens >= moved + 50, 120, "it goes on there")
    second.signal(how)
    wait_for_end([ask])
    whole = load.stop().check(errors=["poison_suspected"] if how == signal.SIGKILL else [])
    assert (ask in whole) == (how == signal.SIGTERM)
    assert len(whole) > len(load.asked) / 2
