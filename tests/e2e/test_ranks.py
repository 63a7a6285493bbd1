"""Replicas of several ranks, a process each: every layout says what one rank says, to the bit; a rank
that is killed or hangs takes its group down, which comes back, and no stream notices."""

import os
import signal

import pytest

from support.cluster import MODEL, Cluster, Router, Worker, metric_sum, run
from support.offline import generate
from support.processes import children, eventually, free_port, is_alive, rss_bytes
from support.rest import Rest
from support import answers
from support.streams import join_all, start_streams

OPTIONS = ("--max-model-len", 2048, "--kv-cache-memory", "96MiB")
# The only replica may need any time to come back. Ranks that hang are seen without the lease, and a busy machine does
# not make it silent: two losses of the same streams would be one too many.
SERVE = (*OPTIONS, "--failover-wait-seconds", 300, "--lease-ms", 300_000)


def body(i, max_tokens):
    how = dict(temperature=0) if i % 4 < 2 else dict(temperature=0.9, top_p=0.95, seed=i)
    return dict(prompt=f"Letter {i}. My dear friend, the rain has not stopped since you left, and",
                max_tokens=max_tokens, ignore_eos=True, logprobs=1, return_token_ids=True, **how)


STREAMS = [body(i, 48) for i in range(6)] + [
    dict(body(6, 32), prompt="The tide comes in, the tide goes out, and nobody asks it why. " * 60)]
LONG = [body(20 + i, 500) for i in range(6)]


@pytest.fixture(scope="module")
def undisturbed():
    """The answers of one rank alone."""
    bodies = STREAMS + LONG
    return {request["prompt"]: {choice["index"]: answers.from_choice(choice)
                                for choice in answer["choices"]}
            for request, answer in zip(bodies, generate(bodies))}


def check(cluster, streams, undisturbed):
    join_all(streams)
    for stream in streams:
        assert stream.error is None, f"{stream.error}\n{cluster.log}"
        assert stream.tokens == undisturbed[stream.body["prompt"]]


def ranks_of(cluster):
    """Pids of the ranks of the one replica, rank 0 first."""
    supervisor, = cluster.workers()
    return children(supervisor)


@pytest.mark.parametrize("tensor,stages", [(2, 1), (3, 1), (4, 1), (1, 2), (1, 3), (2, 2)])
def test_every_layout_gives_the_bits_of_one_rank(pb, undisturbed, tensor, stages):
    cluster = Cluster(*OPTIONS, "-tp", tensor, "-pp", stages, replicas=1)
    try:
        ranks = ranks_of(cluster)
        assert len(ranks) == tensor * stages
        check(cluster, start_streams(cluster, pb, STREAMS), undisturbed)
        pids = cluster.pids() + ranks
        assert cluster.stop() == 0
        assert cluster.all_gone(pids)
    finally:
        cluster.kill()


@pytest.mark.parametrize("layout", ["-tp", "-pp"])
def test_metrics_tell_what_each_rank_does(layout):
    port = free_port()
    worker = Worker(*OPTIONS, layout, 2, "--operator-port", port)
    router = Router([worker.worker_port])
    try:
        eventually(lambda: Rest(router.port).get("/ready").status == 200, 120, "it is ready")
        Rest(router.port).complete(prompt="One two three", max_tokens=20, ignore_eos=True)

        def metric(name, **labels):
            return metric_sum(Rest(port).get("/metrics").body.decode(), f"paceline_worker_{name}", **labels)
        for rank in ("0", "1"):
            eventually(lambda: metric("rank_steps_total", rank=rank) == metric("steps_total") >= 20, 120,
                       "all steps are counted")
            assert metric("rank_up", rank=rank) == 1
            assert metric("rank_compute_seconds_total", rank=rank) > 0
        assert metric("rank_wait_seconds_total") > 0
        assert metric("rank_restarts_total") == 0
        os.kill(worker.ranks[1], signal.SIGKILL)
        worker.wait_for_line("restarting a worker")
        eventually(lambda: answers_metrics(port) and metric("rank_restarts_total") == 1, 120, "it is counted")
        assert metric("rank_steps_total") == 0
    finally:
        router.kill()
        worker.kill()


def answers_metrics(port):
    try:
        return Rest(port).get("/metrics").status == 200
    except OSError:
        return False


def test_a_rank_holds_its_part_only():
    """Anonymous memory: packed weights, buffers, used KV. One rank has 88 MiB of weights."""
    alone = Cluster(*OPTIONS, replicas=1)
    whole = rss_bytes(alone.workers()[0])
    alone.stop()
    cluster = Cluster(*OPTIONS, "-tp", 2, replicas=1)
    parts = [rss_bytes(pid) for pid in ranks_of(cluster)]
    cluster.stop()
    assert max(parts) < whole - (30 << 20), (whole, parts)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("layout", ["-tp", "-pp"])
def test_a_lost_rank_costs_no_stream(pb, undisturbed, layout, rank, how):
    cluster = Cluster(*SERVE, layout, 2, replicas=1)
    try:
        before = ranks_of(cluster)
        streams = start_streams(cluster, pb, LONG)
        eventually(lambda: all(s.num_chunks >= 5 for s in streams), 120, "every stream runs")
        os.kill(before[rank], how)
        assert all(stream.is_alive() for stream in streams)  # it hit them in the midst
        check(cluster, streams, undisturbed)
        eventually(lambda: not any(is_alive(pid) for pid in before), 120, "the old ranks are gone")
        eventually(lambda: len(ranks_of(cluster)) == 2, 120, "both ranks are back")
        assert cluster.stop() == 0
    finally:
        cluster.kill()


def test_no_rank_outlives_a_killed_parent():
    cluster = Cluster(*OPTIONS, "-tp", 2, "-pp", 2, replicas=1)
    pids = cluster.pids() + ranks_of(cluster)
    cluster.kill()
    eventually(lambda: cluster.all_gone(pids), 120, "all processes are gone")


@pytest.mark.parametrize("options,message", [
    (("-tp", 10), "--tensor-parallel-size: 10 ranks are more than this model can be shared among"),
    (("-pp", 31), "--pipeline-parallel-size: 31 stages, but the model has 30 layers")])
def test_too_many_ranks_are_refused(options, message):
    result = run("worker", "--model", MODEL, "--port", 0, *options)
    assert result.returncode == 2
    assert message in result.stderr.decode()
