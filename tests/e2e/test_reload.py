"""The configuration is read again while it serves: what can take effect does, with no request lost; what cannot is
named; a bad file changes nothing."""

import json
import os
import signal

import pytest

from support.cluster import Process, Router, Worker, metric_sum, run
from support.load import Load
from support.processes import eventually, free_port
from support.rest import Rest
from support.streams import HttpStream
from test_security import LONG, SMALL, Mount, authority, start  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def workers():
    pair = [Worker(*SMALL) for _ in range(2)]
    for worker in pair:
        worker.worker_port
    yield pair
    for worker in pair:
        worker.kill()


def config(**options):
    return {"router.yaml": json.dumps({k.replace("_", "-"): v for k, v in options.items()})}


def addresses(*workers):
    return [f"127.0.0.1:{worker.worker_port}" for worker in workers]


class ConfiguredRouter(Router):
    """A router with --config; `command_line` goes first."""

    def __init__(self, mount, *command_line):
        Process.__init__(self, "router", "--config", mount.path("router.yaml"), "--port", 0,
                         "--grpc-port", 0, "--operator-port", 0, *command_line)
        found = self.wait_for_line(
            r"http://[^:]+:(\d+)  grpc://[^:]+:(\d+)  operator http://[^:]+:(\d+)")
        self.port, self.grpc_port, self.operator_port = map(int, found.groups())


def reads(router, result="ok"):
    return router.metric("paceline_router_file_reads_total", file="config", result=result)


def swap(router, mount, content):
    before = reads(router)
    mount.swap(content)
    eventually(lambda: reads(router) > before, 120, router.log)


def test_workers_come_and_go_under_load(workers, start, tmp_path):  # noqa: F811
    first, second = workers
    mount = Mount(tmp_path, config(workers=addresses(first)))
    router = start(ConfiguredRouter, mount)
    eventually(lambda: Rest(router.port).get("/ready").status == 200, 120, router.log)
    stream = HttpStream(router.port, {**LONG, "max_tokens": 480})
    stream.start()
    eventually(lambda: stream.num_chunks > 2, 120, "the stream runs")
    with Load(router.port) as load:
        swap(router, mount, config(workers=addresses(first, second)))
        eventually(lambda: router.ready_replicas() == 2, 120, router.log)
        swap(router, mount, config(workers=addresses(second)))
        router.wait_for_line("gets no new requests: it is drained")
        answered = load.answered
        eventually(lambda: load.answered > answered + 2 or load.failures, 120, "the other one serves")
        stream.join(120)
        eventually(lambda: router.worker_ports() == [second.worker_port], 120, "the first one is let go")
        swap(router, mount, config(workers=addresses(first, second)))
        eventually(lambda: router.ready_replicas() == 2, 120, router.log)
    assert load.failures == []
    assert stream.is_complete, (stream.error, stream.failure)
    assert len(stream.tokens[0].text) > 0
    assert router.metric("paceline_router_failovers_total") == 0


def test_keys_and_limits(workers, start, tmp_path):  # noqa: F811
    mount = Mount(tmp_path, config(workers=addresses(workers[0]), api_key=["alice:key-one"]))
    router = start(ConfiguredRouter, mount)
    one, two = Rest(router.port, "key-one"), Rest(router.port, "key-two")
    eventually(lambda: one.get("/ready").status == 200, 120, router.log)
    assert two.get("/v1/models").status == 401
    with Load(router.port, headers={"Authorization": "Bearer key-one"}) as load:
        swap(router, mount, config(workers=addresses(workers[0]), log_level="debug", balance="session",
                                   max_queued_requests=7,
                                   api_key=["alice:key-one", "bob:key-two"]))
        assert two.get("/v1/models").status == 200
        router.wait_for_line("--config: new api-key, balance, log-level, max-queued-requests")
        answered = load.answered
        eventually(lambda: load.answered > answered or load.failures, 120, "an answer")
    assert load.failures == []
    assert router.metric("paceline_router_picks_total", policy="session") > 0
    swap(router, mount, config(workers=addresses(workers[0]), api_key=["bob:key-two"]))
    assert one.get("/v1/models").status == 401
    assert two.get("/v1/models").status == 200
    assert "key-one" not in router.log and "key-two" not in router.log


BAD = [
    ("workers: [", "not valid YAML at line 1"),
    ("- a list", "must be a map of options"),
    ('{"prot": 1}', "unknown: --prot"),
    ('{"api-keys": "secret-key"}', "unknown: --api-keys"),
    ('{"max-queued-requests": -1}', "max-queued-requests"),
    ('{"balance": "luck"}', "balance"),
    ('{"workers": "nowhere"}', "--workers: "),
    ('{"workers": {"a": 1}}', "'workers' must be a value or a list of values")]
# Good at the start; later they would change what cannot change while it runs.
NEEDS_RESTART = [
    ('{"workers": "127.0.0.1:1", "api-key": "secret-key"}',
     "--api-key: whether keys are needed cannot change without a restart"),
    ('{"workers": "kubernetes:///workers.llm:50061"}', "--workers: to or from kubernetes:/// needs a restart")]


def test_a_bad_file_changes_nothing_and_says_why(workers, start, tmp_path):  # noqa: F811
    good = config(workers=addresses(workers[0]))
    mount = Mount(tmp_path, good)
    router = start(ConfiguredRouter, mount)
    eventually(lambda: Rest(router.port).get("/ready").status == 200, 120, router.log)
    with Load(router.port) as load:
        for content, message in BAD + NEEDS_RESTART:
            before = reads(router, "error")
            router.lines.clear()
            mount.swap({"router.yaml": content})
            eventually(lambda: reads(router, "error") > before, 120, message)
            line = router.wait_for_line("what was there before goes on").string
            assert message in line
            assert "secret-key" not in router.log
            assert router.metric("paceline_router_file_is_current", file="config") == 0
            assert router.ready_replicas() == 1
            assert Rest(router.port).get("/v1/models").status == 200  # and without a key
        os.unlink(mount.path("router.yaml"))
        router.wait_for_line("cannot be read; what was there before goes on")
        os.symlink("..data/router.yaml", mount.path("router.yaml"))
        swap(router, mount, good)
        eventually(lambda: router.metric("paceline_router_file_is_current", file="config") == 1, 120, router.log)
    assert load.failures == []


def test_what_needs_a_restart_is_named_and_the_rest_taken(workers, start, authority, tmp_path):  # noqa: F811
    certificate, key = authority.sign("later")
    mount = Mount(tmp_path, config(workers=addresses(workers[0]), allow_unknown_fields=False))
    router = start(ConfiguredRouter, mount, "--balance", "round_robin")
    eventually(lambda: Rest(router.port).get("/ready").status == 200, 120, router.log)

    def is_current():
        return router.metric("paceline_router_file_is_current", file="config")
    assert is_current() == 1
    mount.swap(config(workers=addresses(workers[0]), allow_unknown_fields=True, host="0.0.0.0", drain_seconds=1,
                      tls_cert_file=certificate, tls_key_file=key, operator_tls=True, admin_port=0,
                      balance="session"))
    router.wait_for_line("--config: a restart is needed for admin-port, allow-unknown-fields, host, operator-tls, "
                         "tls-cert-file, tls-key-file; the rest is in force")
    router.wait_for_line("--config: new drain-seconds$")  # the command line has the last word on balance
    assert is_current() == 0  # which the alert FileNotUsed looks at
    assert Rest(router.port).get("/v1/models").status == 200  # without TLS
    mount.swap(config(workers=addresses(workers[0]), allow_unknown_fields=False, drain_seconds=1))
    eventually(lambda: is_current() == 1, 120, router.log)
    stream = HttpStream(router.port, {**LONG, "max_tokens": 480})
    stream.start()
    eventually(lambda: stream.num_chunks > 2, 120, "the stream runs")
    router.signal(signal.SIGTERM)
    router.wait_for_line("draining for up to 1 s")
    assert router.wait(120) == 0


def test_sighup_reads_everything_again(workers, start, tmp_path):  # noqa: F811
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    router = start(Router, [workers[0].worker_port], "--api-key-file", keys)
    before = router.metric("paceline_router_file_reads_total", file="api-key")
    router.signal(signal.SIGHUP)
    eventually(lambda: router.metric("paceline_router_file_reads_total", file="api-key") > before, 120,
               router.log)
    assert router.popen.poll() is None
    assert router.stop() == 0


def test_a_worker_follows_its_file_too(start, tmp_path):  # noqa: F811
    mount = Mount(tmp_path, {"worker.yaml": "log-level: info\ndrain-seconds: 30\n"})
    worker = start(Worker, *SMALL, "--config", mount.path("worker.yaml"), "--operator-port", 0)
    router = start(Router, [worker.worker_port])
    eventually(lambda: Rest(router.port).get("/ready").status == 200, 120, router.log)
    stream = HttpStream(router.port, LONG)
    stream.start()
    eventually(lambda: stream.num_chunks > 2, 120, "the stream runs")
    mount.swap({"worker.yaml": "log-level: debug\ndrain-seconds: 0\nmax-num-seqs: 3\n"})
    worker.wait_for_line("--config: a restart is needed for max-num-seqs; the rest is in force")
    worker.wait_for_line("--config: new drain-seconds, log-level")
    worker.signal(signal.SIGHUP)
    stream.join(120)
    assert stream.is_complete, (stream.error, stream.failure)
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("running streams have 0 s to end")
    assert worker.wait(120) == 0


def test_a_worker_of_several_ranks_follows_it_and_its_ranks_start_with_it(start, tmp_path):  # noqa: F811
    mount = Mount(tmp_path, {"worker.yaml": "log-level: info\ndrain-seconds: 30\nmax-num-seqs: 2\n"})
    port = free_port()
    worker = start(Worker, *SMALL, "-tp", 2, "--config", mount.path("worker.yaml"), "--operator-port", port,
                   port=free_port(), env={"PACELINE_MAX_NUM_BATCHED_TOKENS": "64"})
    router = start(Router, [worker.worker_port])
    eventually(lambda: router.ready_replicas() == 1, 120, router.log)

    def is_current():
        text = Rest(port).get("/metrics").body.decode()
        return metric_sum(text, "paceline_worker_file_is_current", file="config")
    assert is_current() == 1
    stream = HttpStream(router.port, LONG)
    stream.start()
    eventually(lambda: stream.num_chunks > 2, 120, "the stream runs")
    # The environment has the last word on the second of these.
    mount.swap({"worker.yaml": "log-level: debug\ndrain-seconds: 7\nmax-num-seqs: 3\nmax-num-batched-tokens: 8\n"})
    worker.wait_for_line("--config: new drain-seconds, log-level")
    worker.wait_for_line("--config: a restart is needed for max-num-seqs; the rest is in force")
    assert is_current() == 0
    mount.swap({"worker.yaml": "drain-seconds: -1\n"})
    worker.wait_for_line("drain-seconds.*what was there before goes on")
    mount.swap({"worker.yaml": "log-level: debug\ndrain-seconds: 7\nmax-num-seqs: 3\n"})
    stream.join(120)
    assert stream.is_complete, (stream.error, stream.failure)
    worker.lines.clear()
    worker.signal(signal.SIGHUP)
    worker.wait_for_line("--config: a restart is needed for max-num-seqs")
    # Ranks that start anew start with what the file says now.
    os.kill(worker.ranks[1], signal.SIGKILL)
    worker.wait_for_line("loaded in")
    assert b" --max-num-seqs 3 " in command_line(worker.ranks[0])
    eventually(lambda: router.ready_replicas() == 1, 120, router.log)
    assert is_current() == 1
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("running streams have 7 s to end")
    assert worker.wait(120) == 0


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        return f.read().replace(b"\0", b" ")


def test_a_bad_file_at_the_start_is_an_error(tmp_path):
    path = tmp_path / "router.yaml"
    for content, message in BAD:
        path.write_text(content)
        answer = run("router", "--config", path, "--port", 0, "--grpc-port", 0, "--operator-port", 0)
        assert answer.returncode == 2, answer
        assert message in answer.stderr.decode()
        assert b"secret-key" not in answer.stderr
