"""Replicas whose ranks are on several hosts: each node a supervisor of its own, all meeting at node 0. The same
bits as one rank; a rank lost on any node takes the group down, which comes back by itself."""

import os
import signal
import subprocess

import pytest

from support.cluster import MODEL, Process, run
from support.offline import generate
from support.processes import children, eventually, free_port, is_alive
from support import answers
from support.rest import Rest
from support.streams import HttpStream, join_all
from test_ranks import LONG, OPTIONS, STREAMS


@pytest.fixture(scope="module")
def undisturbed():
    """The answers of one rank alone."""
    bodies = STREAMS + LONG
    return {request["prompt"]: {choice["index"]: answers.from_choice(choice)
                                for choice in answer["choices"]}
            for request, answer in zip(bodies, generate(bodies))}


class Replica:
    """A worker on several nodes, and a router. `into` prefixes the command of each node."""

    def __init__(self, nodes, *layout, master="127.0.0.1", into=()):
        self.address = ("--nnodes", nodes, "--master-addr", master,
                        "--master-port", free_port(master))
        self.layout = layout
        self.into = into
        self.port = free_port()
        self.nodes = {}
        self.router = Process("router", "--workers", f"127.0.0.1:{self.port}", "--port", 0,
                              "--grpc-port", 0, "--operator-port", 0, "--failover-wait-seconds", 300)
        self.http_port = int(self.router.wait_for_line(r"http://[^:]+:(\d+)")[1])

    def start(self, *numbers, env=None):
        for number in numbers:
            into = self.into[number] if self.into else ()
            self.nodes[number] = Process(
                "worker", "--model", MODEL, *OPTIONS, *self.layout, "--port", self.port, "--lease-ms", 300_000,
                "--drain-seconds", 2, *self.address, "--node-rank", number, env=env, into=into)
        return self

    def ranks(self, number):
        return children(self.nodes[number].pid)

    def streams(self, bodies):
        eventually(lambda: Rest(self.http_port).get("/ready").status == 200, 120, "the replica is ready")
        streams = [HttpStream(self.http_port, body) for body in bodies]
        for stream in streams:
            stream.start()
        return streams

    def loaded(self):
        return sum("worker plane on" in line for line in self.nodes[0].lines)

    def kill(self):
        for process in [self.router, *self.nodes.values()]:
            process.kill()


def check(streams, undisturbed):
    join_all(streams)
    for stream in streams:
        assert stream.failure is None and stream.error is None, (stream.failure, stream.error)
        assert stream.tokens == undisturbed[stream.body["prompt"]]


@pytest.mark.parametrize("layout", [("-tp", 2), ("-pp", 2), ("-tp", 2, "-pp", 2)],
                         ids=["a stage over two", "a stage each", "two ranks each"])
def test_ranks_on_two_nodes_give_the_bits_of_one(undisturbed, layout):
    replica = Replica(2, *layout)
    try:
        replica.start(0, 1)
        check(replica.streams(STREAMS), undisturbed)
        assert replica.nodes[1].stop() == 0
        assert replica.nodes[0].stop() == 0
    finally:
        replica.kill()


@pytest.mark.parametrize("layout,node,how", [
    (("-tp", 2), 0, signal.SIGKILL), (("-tp", 2), 1, signal.SIGKILL), (("-tp", 2), 1, signal.SIGSTOP),
    (("-pp", 2), 1, signal.SIGSTOP)], ids=["leader", "other", "other hangs", "stage hangs"])
def test_a_lost_rank_on_any_node_takes_the_group_down_and_it_comes_back(undisturbed, layout, node, how):
    replica = Replica(2, *layout)
    try:
        replica.start(0, 1)
        streams = replica.streams(LONG)
        eventually(lambda: all(s.num_chunks >= 5 for s in streams), 120, "every stream runs")
        before = replica.ranks(0) + replica.ranks(1)
        os.kill(replica.ranks(node)[0], how)
        check(streams, undisturbed)
        eventually(lambda: not any(is_alive(pid) for pid in before), 120, "the old ranks are gone")
        eventually(lambda: replica.loaded() >= 2, 120, "the group is back")
    finally:
        replica.kill()


def test_nodes_come_and_go_in_any_order(undisturbed):
    replica = Replica(2, "-tp", 2)
    try:
        for leaves, comes in [(None, 0), (0, 0), (1, 1)]:
            if leaves is None:
                replica.start(1)
            else:
                assert replica.nodes[leaves].stop() == 0
            replica.start(comes)
            check(replica.streams(STREAMS[:2]), undisturbed)
    finally:
        replica.kill()


def test_a_leader_worker_set_needs_no_options(undisturbed):
    port = free_port()
    replica = Replica(2, "-tp", 2)
    replica.address = ("--master-port", port)
    try:
        for index in (0, 1):
            replica.nodes[index] = Process(
                "worker", "--model", MODEL, *OPTIONS, "-tp", 2, "--port", replica.port,
                "--master-port", port,
                env={"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(index),
                     "LWS_LEADER_ADDRESS": "localhost"})
        check(replica.streams(STREAMS[:2]), undisturbed)
    finally:
        replica.kill()


def test_a_node_of_another_group_is_told_so():
    replica = Replica(2, "-tp", 2)
    try:
        replica.start(0)
        other = run("worker", "--model", MODEL, "--compute-dtype", "float32", "-tp", 2,
                    *replica.address, "--node-rank", 1)
        assert other.returncode == 2
        assert "of another group" in other.stderr.decode()
        assert "give every node the same model file" in other.stderr.decode()
    finally:
        replica.kill()


@pytest.mark.parametrize("options,message", [
    (("--nnodes", 2), "--node-rank: missing"),
    (("--nnodes", 2, "--node-rank", 0), "--master-addr: missing"),
    (("--nnodes", 2, "--node-rank", 2, "--master-addr", "a"), "--node-rank: 2, but 2 nodes"),
    (("--nnodes", 3, "--node-rank", 0, "--master-addr", "a"), "3 nodes cannot share 2 ranks"),
    (("--node-rank", 1), "--node-rank: 1, but there is one node")])
def test_nodes_that_do_not_fit_are_refused(options, message):
    result = run("worker", "--model", MODEL, "--port", 0, "-tp", 2, *options)
    assert result.returncode == 2
    assert message in result.stderr.decode()


class Network:
    """A second host: a network namespace behind a pair of virtual interfaces."""

    def __init__(self):
        self.name = f"paceline{os.getpid()}"
        self.link = f"pl{os.getpid()}"
        net = f"10.211.{os.getpid() % 250}"  # of its own: several test runs may share a machine
        self.here = f"{net}.1"
        for command in [f"netns add {self.name}",
                        f"link add {self.link} type veth peer name inside netns {self.name}",
                        f"addr add {self.here}/24 dev {self.link}",
                        f"link set {self.link} up",
                        f"-n {self.name} addr add {net}.2/24 dev inside",
                        f"-n {self.name} link set inside up",
                        f"-n {self.name} link set lo up"]:
            self.ip(command)

    def ip(self, command):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.link], capture_output=True)


@pytest.fixture
def network():
    try:
        network = Network()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to make network namespaces")
    yield network
    network.close()


def test_a_cut_cable_ends_the_group_and_it_comes_back_with_it(network, undisturbed):
    replica = Replica(2, "-tp", 2, master=network.here,
                      into=((), ("ip", "netns", "exec", network.name)))
    try:
        replica.start(0, 1)
        check(replica.streams(STREAMS[:2]), undisturbed)
        streams = replica.streams(LONG)
        eventually(lambda: all(s.num_chunks >= 5 for s in streams), 120, "every stream runs")
        before = replica.ranks(0) + replica.ranks(1)
        network.ip(f"link set {network.link} down")
        eventually(lambda: not any(is_alive(pid) for pid in before), 120, "the old ranks are gone")
        network.ip(f"link set {network.link} up")
        check(streams, undisturbed)
    finally:
        replica.kill()
