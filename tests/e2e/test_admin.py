"""The operator's gRPC service of a real cluster."""

import subprocess
import sys

import grpc
import pytest

from support.cluster import ROOT, run
from support.processes import eventually
from support.rest import Rest

KEY = "op-0123456789abcdef0123456789abcdef"
PROMPT = "Once upon a time there was a lighthouse keeper who counted every ship that passed. " * 4


@pytest.fixture(scope="module")
def server(start_cluster):
    cluster = start_cluster("--max-model-len", 2048, "--kv-cache-memory", "80MiB", "--admin-port", 0,
                            env={"PACELINE_ADMIN_KEY": KEY})
    yield cluster
    assert KEY not in cluster.log
    assert cluster.stop() == 0


@pytest.fixture(scope="module")
def admin_pb(tmp_path_factory):
    out = tmp_path_factory.mktemp("admin_stubs")
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}/proto", f"--python_out={out}",
         f"--grpc_python_out={out}", "paceline/v1/admin.proto"], check=True)
    sys.path.insert(0, str(out))
    from paceline.v1 import admin_pb2, admin_pb2_grpc

    admin_pb2.AdminStub = admin_pb2_grpc.AdminStub
    return admin_pb2


@pytest.fixture(scope="module")
def admin(server, admin_pb):
    port = server.wait_for_line(r"admin grpc://127\.0\.0\.1:(\d+)")[1]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = admin_pb.AdminStub(channel)

        def call(method, *request, key=KEY, **fields):
            message = request[0] if request else getattr(admin_pb, f"{method}Request")(**fields)
            metadata = [("authorization", f"Bearer {key}")] if key else []
            return getattr(stub, method)(message, metadata=metadata, timeout=120)
        yield call


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server.port)


def states(admin):
    return {replica.id: replica.state for replica in admin("ListReplicas").replicas}


def test_every_method_needs_the_key(admin, admin_pb):
    for method in admin_pb.DESCRIPTOR.services_by_name["Admin"].methods_by_name:
        for key in (None, "wrong"):
            with pytest.raises(grpc.RpcError) as error:
                admin(method, key=key)
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED, method


def test_a_drained_replica_finishes_its_stream_and_gets_no_other(admin, rest, server):
    replicas = list(states(admin))
    assert len(replicas) == 2
    body = {"prompt": PROMPT, "max_tokens": 800, "ignore_eos": True, "temperature": 0}
    golden = rest.complete(**body)["choices"][0]["text"]

    def finished(replica):
        return server.metric("vllm:request_success_total", engine=replica)
    before = {replica: finished(replica) for replica in replicas}
    stream = rest.stream("/v1/completions", body)
    text = next(stream)["choices"][0]["text"]

    def one_is_running():
        return [r.id for r in admin("ListReplicas").replicas if r.running == 1]

    busy, = eventually(one_is_running, 120, "the stream shows")
    admin("DrainReplica", id=busy)
    for i in range(4):
        assert rest.complete(prompt=f"{i}", max_tokens=2)
    text += "".join(c["text"] for event in stream for c in event["choices"])
    assert stream.done and text == golden
    eventually(lambda: states(admin)[busy] == "draining", 120, "it is shown as draining")
    other, = set(replicas) - {busy}
    eventually(lambda: finished(other) == before[other] + 4 and finished(busy) == before[busy] + 1, 120, "all counted")
    admin("DrainReplica", id=busy, undo=True)
    eventually(lambda: set(states(admin).values()) == {"ready"}, 120, "it is ready again")


def test_flushed_prefixes_are_computed_again(admin, rest):
    def cached():
        usage = rest.complete(prompt=PROMPT, max_tokens=1)["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]
    cached()
    assert cached() > 0
    assert admin("FlushPrefixCache").replicas == 2
    assert cached() == 0
    assert cached() > 0


def test_the_log_level_changes_at_once(admin, rest, server):
    admin("SetLogLevel", level="debug")
    with pytest.raises(grpc.RpcError) as error:
        admin("SetLogLevel", level="loud")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    admin("SetLogLevel", level="info")


@pytest.mark.parametrize("method, fields, code", [
    ("DrainReplica", {"id": "nobody"}, grpc.StatusCode.NOT_FOUND),
    ("FlushPrefixCache", {"model": "nobody"}, grpc.StatusCode.NOT_FOUND),
    ("LoadAdapter", {"name": "a"}, grpc.StatusCode.UNIMPLEMENTED),
    ("UnloadAdapter", {"name": "a"}, grpc.StatusCode.UNIMPLEMENTED)])
def test_what_cannot_be_done_says_so(admin, method, fields, code):
    with pytest.raises(grpc.RpcError) as error:
        admin(method, **fields)
    assert error.value.code() == code
    assert error.value.details()


def test_off_loopback_it_needs_a_key():
    result = run("router", "--workers", "127.0.0.1:1", "--port", 0, "--grpc-port", 0,
                 "--operator-port", 0, "--admin-port", 0, "--operator-host", "0.0.0.0")
    assert result.returncode == 2
    assert b"--admin-key" in result.stderr
