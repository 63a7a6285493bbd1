"""Processes of the `paceline` command under test."""

import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request

from support.processes import children, eventually, is_alive

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
MODEL = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
MODEL_NAME = "SmolLM2-135M-Instruct.Q4_1"
# Bytes that tests put into requests to see that no answer and no log ever shows them.
CANARY = "cAnAry7f3a"


def binary():
    return os.environ.get("PACELINE_BINARY") or os.path.join(ROOT, "build/release/paceline")


def environment(extra=None):
    """The caller's environment without settings of its own for Paceline."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PACELINE_")}
    env.update(extra or {})
    return env


def run(*args, stdin=b"", env=None, timeout=300, **more):
    """Runs the command to its end; the result's stdout and stderr are bytes."""
    return subprocess.run(
        [binary(), *map(str, args)], input=stdin, capture_output=True, env=environment(env),
        timeout=timeout, **more)


class Process:
    """A long-running `paceline` command, behind the command `into` if given. Dies with the test run,
    however that ends."""

    def __init__(self, *args, env=None, into=()):
        # A session of its own: Ctrl-C in the terminal of the test run is not for it.
        self.popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *into, binary(), *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=environment(env), start_new_session=True)
        self.pid = self.popen.pid
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stderr:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    @property
    def log(self):
        return "\n".join(self.lines)

    def wait_for_line(self, pattern, timeout=120):
        """The match of the first line on stderr that has `pattern`."""
        def look():
            for line in list(self.lines):
                match = re.search(pattern, line)
                if match:
                    return match
            assert self.popen.poll() is None, f"ended with {self.popen.returncode}:\n{self.log}"
            return None
        return eventually(look, timeout, f"a line with {pattern!r} in:\n{self.log}")

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout=120):
        """The exit status."""
        status = self.popen.wait(timeout)
        self._reader.join(120)
        return status

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def stop(self, timeout=120):
        """Ctrl-C; the exit status."""
        if self.popen.poll() is None:
            self.signal(signal.SIGINT)
        return self.wait(timeout)


class Server(Process):
    """A process with a router in it. Subclasses set `port`, `grpc_port` and `operator_port`."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_address(self):
        return f"127.0.0.1:{self.grpc_port}"

    def operator(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.operator_port}{path}", timeout=60) as r:
            return r.read().decode()

    def metric(self, name, **labels):
        """Sum of a metric's series that have these labels; 0 when there is none."""
        return metric_sum(self.operator("/metrics"), name, **labels)

    def running(self):
        return self.metric("vllm:num_requests_running")

    def waiting(self):
        return self.metric("vllm:num_requests_waiting")

    def worker_ports(self):
        """From the replicas' addresses on the status page."""
        return sorted({int(p) for p in re.findall(r"127\.0\.0\.1:(\d+)", self.operator("/"))})

    def ready_replicas(self):
        """0 until the router is ready itself: it has its replicas before it can tokenise for them."""
        try:
            self.operator("/ready")
        except urllib.error.HTTPError:
            return 0
        return int(self.metric("paceline_router_replica_state", state="ready"))

    def ready_pids(self):
        """The workers that take requests, as the router sees them."""
        pattern = r'paceline_router_replica_state\{.*replica="[^"]*-(\d+)",state="ready"\} 1'
        return {int(pid) for pid in re.findall(pattern, self.operator("/metrics"))}

    def sequences(self):
        """What the router has at each worker: a number of sequences by pid."""
        pattern = r'paceline_router_replica_sequences\{.*replica="[^"]*-(\d+)"\} (\d+)'
        found = re.findall(pattern, self.operator("/metrics"))
        return {int(pid): int(number) for pid, number in found}

    def tokens_from(self, pid):
        """How many tokens a worker has sent it."""
        return metric_sum(re.sub(r'engine="[^"]*-(\d+)"', r'engine="\1"', self.operator("/metrics")),
                          "vllm:generation_tokens_total", engine=str(pid))

    def wait_idle(self, timeout=120):
        eventually(lambda: self.running() == 0 and self.waiting() == 0, timeout,
                   "no request runs or waits")


class Cluster(Server):
    """`paceline serve` on free ports, ready for requests."""

    def __init__(self, *args, replicas=2, env=None, model=MODEL):
        super().__init__(
            "serve", model, "--replicas", replicas, "--port", 0, "--grpc-port", 0,
            "--operator-port", 0, *args, env=env)
        self.replicas = replicas
        try:
            self.wait_for_line(r"^Ready after")
            self.port = int(self.wait_for_line(r"OpenAI API +http://[^:]+:(\d+)/v1")[1])
            self.grpc_port = int(self.wait_for_line(r"gRPC +[^:]+:(\d+)")[1])
            self.operator_port = int(self.wait_for_line(r"status page +http://[^:]+:(\d+)/")[1])
            self.wait_for_line(r"curl -N")
        except BaseException:
            self.kill()
            raise

    def workers(self):
        return children(self.pid)

    def pids(self):
        return [self.pid, *self.workers()]

    def all_gone(self, pids):
        return not any(is_alive(pid) for pid in pids)


class Router(Server):
    """`paceline router` on free ports, over workers at these ports of this machine."""

    def __init__(self, worker_ports, *args, env=None):
        super().__init__("router", "--workers", ",".join(f"127.0.0.1:{p}" for p in worker_ports),
                         "--port", 0, "--grpc-port", 0, "--operator-port", 0, *args, env=env)
        try:
            found = self.wait_for_line(
                r"https?://[^:]+:(\d+)  grpcs?://[^:]+:(\d+)  operator https?://[^:]+:(\d+)")
            self.port, self.grpc_port, self.operator_port = map(int, found.groups())
        except BaseException:
            self.kill()
            raise


class Worker(Process):
    """`paceline worker`; routers reach it at `worker_port`."""

    def __init__(self, *args, port=0, env=None, into=()):
        super().__init__("worker", "--model", MODEL, "--port", port, *args, env=env,
                         into=into)
        self.options = args

    @property
    def worker_port(self):
        return int(self.wait_for_line(r"worker plane on [^:]+:(\d+)")[1])

    @property
    def ranks(self):
        """Pids, that of rank 0 first, by which routers know the replica."""
        return children(self.pid) or [self.pid]


def metric_sum(text, name, **labels):
    total = 0.0
    for line in text.splitlines():
        match = re.fullmatch(r"([^{ ]+)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
        if not match or match[1] != name:
            continue
        found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
        if all(found.get(key) == value for key, value in labels.items()):
            total += float(match[3])
    return total
