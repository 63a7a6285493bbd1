"""Stopping, killing and freezing processes while they work. Every stream has an end that says what it
is, and what a stream says is what it would have said undisturbed, to the bit. No process stays."""

import os
import shutil
import signal

import grpc
import pytest

from support import answers
from support.cluster import MODEL, Process, run
from support.offline import generate
from support.processes import children, eventually, is_alive, sockets, stop_thread
from support.rest import Rest, check_error
from support.streams import join_all, start_streams

# Where one replica is all there is, it may need any time to come back. Nobody counts as silent because the machine is
# busy, but where it is the topic.
SHORT_LEASE = ("--max-model-len", 2048, "--kv-cache-memory", "96MiB", "--failover-wait-seconds", 300)
OPTIONS = (*SHORT_LEASE, "--lease-ms", 300_000)
STOP_SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM],
                                       ids=["SIGINT", "SIGTERM"])


def body(i, max_tokens, **more):
    """Greedy and sampled in turn, two by two, so that each comes over HTTP and over gRPC."""
    how = dict(temperature=0) if i % 4 < 2 else dict(temperature=0.9, top_p=0.95, seed=i)
    return dict(prompt=f"Letter {i}. My dear friend, the rain has not stopped since you left, and",
                max_tokens=max_tokens, ignore_eos=True, logprobs=1, return_token_ids=True, **how,
                **more)


STREAMS = [body(i, 300) for i in range(8)]
PAIRS = [body(100 + i, 300, n=2) for i in range(2)]  # two choices each
QUEUED = [body(200 + i, 24) for i in range(24)]
WAITING = [body(250 + i, 100) for i in range(24)]
ENDLESS = [body(300 + i, 1900) for i in range(6)]


@pytest.fixture(scope="module")
def undisturbed():
    """The answers of a process that nobody disturbs, by prompt."""
    bodies = STREAMS + PAIRS + QUEUED + WAITING
    return {request["prompt"]: {choice["index"]: answers.from_choice(choice)
                                for choice in answer["choices"]}
            for request, answer in zip(bodies, generate(bodies))}


def check_complete(streams, undisturbed):
    join_all(streams)
    for stream in streams:
        assert stream.error is None, stream.error
        assert stream.tokens == undisturbed[stream.body["prompt"]]


def wait_until_all_run(streams, num_chunks=5):
    """REQUIRES: the answers are long enough for all to be on their way at once."""
    eventually(lambda: all(s.num_chunks >= num_chunks or not s.is_alive() for s in streams), 120,
               "every stream runs")
    assert all(stream.is_alive() for stream in streams), [s.error or s.failure for s in streams]


def check_gone(cluster, pids):
    eventually(lambda: cluster.all_gone(pids), 120, "all processes are gone")


def busy_worker(cluster):
    """The pid of the worker that runs most."""
    running = eventually(lambda: {n: pid for pid, n in cluster.sequences().items() if n > 0}, 120,
                         "the router says that a worker runs something")
    return running[max(running)]


def check_back(cluster, lost, undisturbed, replicas=2):
    """As many replicas as before are ready, those in `lost` not among them, and they answer."""
    def is_back():
        ready = cluster.ready_pids()
        return len(ready) == replicas and ready == set(cluster.workers()) - set(lost)

    eventually(is_back, 120, "all replicas are ready again")
    bodies = QUEUED[:2 * replicas]
    answer = [Rest(cluster.port).complete(**request) for request in bodies]
    for request, one in zip(bodies, answer):
        got = {choice["index"]: answers.from_choice(choice) for choice in one["choices"]}
        assert got == undisturbed[request["prompt"]]


class TestStop:
    @STOP_SIGNALS
    def test_what_runs_ends_and_what_comes_is_refused(self, start_cluster, undisturbed, pb, number):
        cluster = start_cluster(*OPTIONS, "--drain-seconds", 300)
        pids = cluster.pids()
        with grpc.insecure_channel(cluster.grpc_address) as channel:
            stub = pb.InferenceStub(channel)
            stub.ListModels(pb.ListModelsRequest())  # connected before, and no longer welcome after
            rest = Rest(cluster.port)
            holds_the_drain = rest.stream("/v1/completions", ENDLESS[0])
            streams = start_streams(cluster, pb, STREAMS)
            wait_until_all_run(streams)
            cluster.signal(number)
            cluster.wait_for_line("stopping")
            eventually(lambda: rest.get("/ready").status == 503, 120, "no longer ready")
            refusal = rest.post("/v1/completions", dict(prompt="x", max_tokens=1))
            error = check_error(refusal, 503, code="draining")
            assert "shutting down" in error["message"]
            assert rest.get("/health").status == 200
            with pytest.raises(grpc.RpcError) as refused:
                stub.Generate(pb.GenerateRequest(text="x"))
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert ("paceline-error-code", "draining") in refused.value.trailing_metadata()
            holds_the_drain.close()
        check_complete(streams, undisturbed)
        assert cluster.wait(120) == 0
        check_gone(cluster, pids)

    @STOP_SIGNALS
    def test_what_does_not_end_in_time_is_told(self, start_cluster, pb, number):
        cluster = start_cluster(*OPTIONS, "--drain-seconds", 1)
        pids = cluster.pids()
        streams = start_streams(cluster, pb, ENDLESS)
        wait_until_all_run(streams)
        cluster.signal(number)
        join_all(streams)
        assert [stream.error for stream in streams] == ["draining"] * len(streams)
        assert cluster.wait(120) == 0
        check_gone(cluster, pids)

    @STOP_SIGNALS
    def test_the_second_signal_ends_it_at_once(self, start_cluster, pb, number):
        cluster = start_cluster(*OPTIONS)
        pids = cluster.pids()
        streams = start_streams(cluster, pb, ENDLESS)
        wait_until_all_run(streams)
        cluster.signal(number)
        cluster.wait_for_line("stopping")
        cluster.signal(signal.SIGINT)
        assert cluster.wait(120) == 130
        check_gone(cluster, pids)
        for stream in streams:
            stream.join(120)
            assert not stream.is_complete  # a cut connection is nothing that looks like an end

    def test_while_it_starts(self):
        process = Process("serve", MODEL, "--replicas", 2, "--port", 0, "--grpc-port", 0,
                          "--operator-port", 0, *OPTIONS)
        try:
            workers = eventually(lambda: children(process.pid), 120, "workers")
            process.signal(signal.SIGINT)
            assert process.wait(120) == 0
            eventually(lambda: not any(map(is_alive, workers)), 120, "the workers are gone")
        finally:
            process.kill()

    def test_a_worker_that_dies_during_the_drain(self, start_cluster, undisturbed, pb):
        cluster = start_cluster(*OPTIONS, "--drain-seconds", 300)
        pids = cluster.pids()
        streams = start_streams(cluster, pb, STREAMS)
        wait_until_all_run(streams)
        cluster.signal(signal.SIGTERM)
        cluster.wait_for_line("stopping")
        os.kill(busy_worker(cluster), signal.SIGKILL)
        check_complete(streams, undisturbed)
        assert cluster.wait(120) == 0
        check_gone(cluster, pids)


class TestKilledServe:
    def test_no_worker_stays(self, start_cluster, pb):
        cluster = start_cluster(*OPTIONS)
        workers = cluster.workers()
        streams = start_streams(cluster, pb, ENDLESS)
        wait_until_all_run(streams)
        cluster.kill()
        eventually(lambda: not any(map(is_alive, workers)), 120, "the workers are gone")
        for stream in streams:
            stream.join(120)
            assert not stream.is_complete


class TestLostWorker:
    def test_killed(self, start_cluster, undisturbed, pb):
        cluster = start_cluster(*OPTIONS)
        streams = start_streams(cluster, pb, STREAMS + PAIRS)
        wait_until_all_run(streams)
        lost = busy_worker(cluster)
        os.kill(lost, signal.SIGKILL)
        check_complete(streams, undisturbed)
        assert cluster.metric("paceline_router_failovers_total") > 0
        check_back(cluster, [lost], undisturbed)
        assert cluster.stop() == 0

    def test_the_only_one_killed(self, start_cluster, undisturbed, pb):
        """The streams wait for it to come back."""
        cluster = start_cluster(*OPTIONS, replicas=1)
        streams = start_streams(cluster, pb, STREAMS)
        wait_until_all_run(streams)
        lost = busy_worker(cluster)
        os.kill(lost, signal.SIGKILL)
        check_complete(streams, undisturbed)
        assert cluster.metric("paceline_router_failovers_total") > 0
        check_back(cluster, [lost], undisturbed, replicas=1)
        # It was started while clients were connected, which is none of its business.
        assert not sockets(cluster.pid) & sockets(*cluster.workers())
        assert cluster.stop() == 0

    def test_killed_while_requests_queue(self, start_cluster, undisturbed, pb):
        cluster = start_cluster(*OPTIONS, "--max-num-seqs", 2)
        streams = start_streams(cluster, pb, WAITING)
        eventually(lambda: cluster.waiting() > 8 and any(s.num_chunks for s in streams), 120,
                   "requests run and wait")
        lost = busy_worker(cluster)
        os.kill(lost, signal.SIGKILL)
        check_complete(streams, undisturbed)
        check_back(cluster, [lost], undisturbed)
        assert cluster.stop() == 0

    def test_frozen(self, start_cluster, undisturbed, pb):
        """Its streams go on elsewhere when its lease has passed; when it wakes up it is taken back,
        and what it says of its old work reaches nobody."""
        cluster = start_cluster(*SHORT_LEASE)
        workers = cluster.workers()
        streams = start_streams(cluster, pb, STREAMS)
        wait_until_all_run(streams)
        frozen = busy_worker(cluster)
        os.kill(frozen, signal.SIGSTOP)
        try:
            check_complete(streams, undisturbed)
            assert frozen not in cluster.ready_pids()
            again = start_streams(cluster, pb, QUEUED)
            check_complete(again, undisturbed)
        finally:
            os.kill(frozen, signal.SIGCONT)
        check_back(cluster, [], undisturbed)
        assert cluster.workers() == workers
        cluster.wait_idle()
        assert cluster.stop() == 0

    def test_frozen_for_less_than_its_lease(self, start_cluster, undisturbed, pb):
        cluster = start_cluster(*OPTIONS)
        streams = start_streams(cluster, pb, STREAMS)
        wait_until_all_run(streams)
        frozen = busy_worker(cluster)
        os.kill(frozen, signal.SIGSTOP)
        try:
            before = [stream.num_chunks for stream in streams]
            eventually(lambda: any(s.num_chunks > n + 20 or not s.is_alive()
                                   for s, n in zip(streams, before)), 120, "the others go on")
        finally:
            os.kill(frozen, signal.SIGCONT)
        check_complete(streams, undisturbed)
        assert cluster.metric("paceline_router_failovers_total") == 0
        assert cluster.stop() == 0

    def test_an_engine_that_hangs_while_its_process_lives(self, start_cluster, undisturbed, pb):
        """Its streams go on elsewhere after its lease; the process sees it and ends, to be started anew."""
        cluster = start_cluster(*SHORT_LEASE)
        streams = start_streams(cluster, pb, STREAMS)
        wait_until_all_run(streams)
        stuck = busy_worker(cluster)
        has_ended = stop_thread(stuck, "engine")
        check_complete(streams, undisturbed)
        eventually(has_ended, 120, "the process ends itself")
        assert "the engine hangs" in cluster.log
        check_back(cluster, [stuck], undisturbed)
        assert cluster.stop() == 0


class TestRepeatedDeaths:
    def test_a_request_that_is_there_whenever_a_worker_dies(self, start_cluster, undisturbed, pb):
        cluster = start_cluster(*OPTIONS)
        poison, = start_streams(cluster, pb, ENDLESS[:1])
        wait_until_all_run([poison])
        first = busy_worker(cluster)
        second, = set(cluster.workers()) - {first}
        os.kill(first, signal.SIGKILL)
        # A worker that dies before it has the request is not suspected.
        eventually(lambda: cluster.tokens_from(second) > 0, 120, "it runs on the other worker")
        os.kill(second, signal.SIGKILL)
        join_all([poison])
        assert poison.error == "poison_suspected"
        check_back(cluster, [first, second], undisturbed)
        workers = cluster.workers()
        error = check_error(Rest(cluster.port).post("/v1/completions", poison.body), 500,
                            code="poison_suspected")
        assert "not tried again" in error["message"]
        assert cluster.workers() == workers
        assert cluster.stop() == 0

    def test_a_worker_that_dies_again_and_again(self, start_cluster):
        """Restarted after 1, 2, 4 and 8 s while the other one serves; the fifth death ends serve."""
        cluster = start_cluster(*OPTIONS)
        steady, doomed = cluster.workers()
        rest = Rest(cluster.port)
        for pause in (1, 2, 4, 8):
            os.kill(doomed, signal.SIGKILL)
            cluster.wait_for_line(f"worker {doomed} ended with signal 9 .*restart in {pause} s")
            assert rest.complete(prompt="x", max_tokens=1)["usage"]["completion_tokens"] == 1
            doomed, = eventually(lambda: set(cluster.workers()) - {steady}, 120, "a new worker")
        os.kill(doomed, signal.SIGKILL)
        assert cluster.wait(120) == 1
        assert "died 5 times" in cluster.log
        check_gone(cluster, [steady, doomed])


class TestUnusableModels:
    """Found by the workers: said once, and not tried again."""

    @pytest.fixture(scope="class")
    def files(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("models")
        with open(MODEL, "rb") as model, open(folder / "short.gguf", "wb") as short:
            short.write(model.read(50_000_000))
        (folder / "text.gguf").write_text("this is no model")
        (folder / "empty.gguf").touch()
        shutil.copy(MODEL, folder / "whole.gguf")
        yield folder
        shutil.rmtree(folder)

    @pytest.mark.parametrize("name, reason", [
        ("short.gguf", "cut short"), ("text.gguf", "not a GGUF file"), ("empty.gguf", "empty.gguf: "),
        ("missing.gguf", "No such file"), (".", "is a directory")])
    def test_serve(self, files, name, reason):
        result = run("serve", files / name, "--replicas", 2, "--port", 0, "--grpc-port", 0,
                     "--operator-port", 0)
        text = result.stderr.decode()
        assert result.returncode == 2, text
        assert reason in text and str(files / name) in text
        assert "Ready" not in text and "restart" not in text
        # run() ends when the last process that holds stderr has ended: no worker stays.

    def test_worker(self, files):
        result = run("worker", "--model", files / "short.gguf", "--port", 0)
        assert result.returncode == 2
        assert b"cut short" in result.stderr

    def test_a_file_that_goes_while_it_is_served(self, start_cluster, files):
        """What runs goes on from the mapped file; the successor of a dead worker finds nothing, and
        is tried again with back-off, since files can come back."""
        cluster = start_cluster(*OPTIONS, model=files / "whole.gguf", replicas=1)
        worker, = cluster.workers()
        os.rename(files / "whole.gguf", files / "away.gguf")
        assert Rest(cluster.port).complete(prompt="x", max_tokens=1)
        os.kill(worker, signal.SIGKILL)
        cluster.wait_for_line(r"ended with status 2 .*restart in 2 s")
        check_error(Rest(cluster.port).post("/v1/completions", dict(prompt="x")), 503,
                    code="no_ready_replica")
        os.rename(files / "away.gguf", files / "whole.gguf")
        eventually(lambda: cluster.ready_replicas() == 1, 120, "it is served again")
        assert cluster.stop() == 0

    def test_a_file_that_is_cut_while_it_is_served(self, start_cluster, files):
        """Who has loaded it needs it no more."""
        path = files / "whole.gguf"
        cluster = start_cluster(*OPTIONS, model=path, replicas=1)
        before = Rest(cluster.port).complete(prompt="The sea", max_tokens=8, temperature=0)
        os.truncate(path, 50_000_000)
        try:
            after = Rest(cluster.port).complete(prompt="The sea", max_tokens=8, temperature=0)
            assert after["choices"] == before["choices"]
            os.kill(cluster.workers()[0], signal.SIGKILL)
            cluster.wait_for_line(r"whole.gguf.*cut short")
        finally:
            shutil.copy(MODEL, files / "again.gguf")
            os.replace(files / "again.gguf", path)
        eventually(lambda: cluster.ready_replicas() == 1, 120, "it is served again")
        assert cluster.stop() == 0

    def test_a_file_that_is_cut_while_it_is_loaded(self, tmp_path):
        path = tmp_path / "cut.gguf"

        def is_cut_in_time():
            shutil.copy(MODEL, path)
            worker = Process("worker", "--model", path, "--port", 0)
            maps = f"/proc/{worker.pid}/maps"
            eventually(lambda: "cut.gguf" in open(maps).read() or worker.lines, 120, "the file is mapped")
            os.truncate(path, 4096)
            eventually(lambda: worker.popen.poll() is not None or "worker plane on" in worker.log, 120, "an end")
            if worker.popen.poll() is None:  # it had read everything
                assert worker.stop() == 0
                return False
            assert worker.wait() == 1
            assert f"{path}: the file was cut short" in worker.log
            return True
        eventually(is_cut_in_time, 600, "it is cut in the midst")
