"""Fixtures of the end-to-end tests; README.md says how to run them."""

import os

import grpc
import openai
import pytest

from support.cluster import CANARY, MODEL, MODEL_NAME, Cluster, binary
from support.processes import eventually
from support.rest import Rest
from support.stubs import make_stubs

# Short contexts make the limits cheap to reach; the cache is small, and far larger than one request.
CLUSTER_OPTIONS = ("--max-model-len", 2048, "--kv-cache-memory", "160MiB", "--lease-ms", 300_000)


def pytest_make_parametrize_id(config, val, argname):
    """Short names for long values."""
    text = val if isinstance(val, str) else repr(val)
    return text if len(text) <= 40 else f"{text[:30]}-{len(text)}"


def pytest_sessionstart(session):
    if not os.access(binary(), os.X_OK):
        pytest.exit(f"{binary()} is missing: build it, or set PACELINE_BINARY", returncode=1)
    if not os.path.exists(MODEL):
        pytest.exit(f"{MODEL} is missing: `make model` fetches it", returncode=1)


@pytest.fixture(scope="session")
def cluster():
    """Two replicas that all tests of a file share."""
    server = Cluster(*CLUSTER_OPTIONS)
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def start_cluster():
    """A function that starts a cluster of one's own; it is gone after the test run."""
    started = []

    def start(*args, **more):
        started.append(Cluster(*args, **more))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def rest(cluster):
    return Rest(cluster.port)


@pytest.fixture(scope="session")
def client(cluster):
    """The official client. No retries: the first answer counts."""
    with openai.OpenAI(base_url=cluster.url + "/v1", api_key="none", max_retries=0,
                       timeout=300) as openai_client:
        yield openai_client


@pytest.fixture(scope="session")
def pb(tmp_path_factory):
    return make_stubs(tmp_path_factory.mktemp("stubs"))


@pytest.fixture(scope="session")
def channel(cluster):
    with grpc.insecure_channel(
            cluster.grpc_address,
            options=[("grpc.max_send_message_length", -1)]) as grpc_channel:
        yield grpc_channel


@pytest.fixture(scope="session")
def stub(pb, channel):
    return pb.InferenceStub(channel)


class Health:
    """That a server is what it was: same processes, nothing running, the same bytes for a fixed
    request, and nothing of what users sent in its log."""

    REQUEST = {"prompt": "The three primary colors are", "max_tokens": 12, "temperature": 0,
               "logprobs": 3, "return_token_ids": True}

    def __init__(self, cluster, key=None):
        self._cluster = cluster
        self._rest = Rest(cluster.port, key)
        self._pids = cluster.pids()
        self._golden = self._ask()

    def _ask(self):
        return self._rest.complete(**self.REQUEST)["choices"]

    def check(self):
        assert self._cluster.pids() == self._pids, self._cluster.log
        assert self._ask() == self._golden
        self._cluster.wait_idle()
        assert CANARY not in self._cluster.log
        assert CANARY not in self._cluster.operator("/metrics")
        assert CANARY not in self._cluster.operator("/")


@pytest.fixture(scope="session")
def make_health():
    return Health


@pytest.fixture(scope="class")
def unharmed(cluster):
    """For groups of bad input: checks afterwards that the server took no harm."""
    health = Health(cluster)
    yield
    health.check()


@pytest.fixture
def idle(cluster):
    """For tests that watch the number of running requests."""
    cluster.wait_idle()
    return lambda: eventually(
        lambda: cluster.running() == 0, 120, "the cancelled requests are gone")


@pytest.fixture(scope="session")
def model_name():
    return MODEL_NAME
