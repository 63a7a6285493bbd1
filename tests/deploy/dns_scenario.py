"""Workers that come and go under one DNS name, run by test_dns.py in a network namespace of its own
with a DNS server of its own. Ends with an assertion, or with status 0."""

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

from support.cluster import MODEL, Process, metric_sum  # noqa: E402
from support.processes import eventually  # noqa: E402
from support.rest import Rest  # noqa: E402

NAME = "workers.test"


class DnsServer:
    """Answers A questions for NAME with `addresses`; None: the name does not exist."""

    def __init__(self):
        self.addresses = []
        self.questions = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            question, client = self.socket.recvfrom(512)
            self.socket.sendto(self._answer(question), client)

    def _answer(self, question):
        end = question.index(b"\0", 12) + 5  # name, type, class
        kind = struct.unpack(">H", question[end - 4:end - 2])[0]
        addresses = self.addresses
        found = addresses if kind == 1 and addresses is not None else []
        if kind == 1:
            self.questions += 1
        code = 3 if addresses is None else 0
        header = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(found), 0, 0)
        records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(a)
                           for a in found)
        return header + question[12:end] + records

    def let_look(self, times=2):
        """Waits until the router has asked again so many times."""
        before = self.questions
        eventually(lambda: self.questions >= before + times, 120, "the router asks for the name")


class Clients:
    """Ask again and again; every answer must be whole."""

    def __init__(self, port, threads):
        self.port = port
        self.bad = []
        self.good = 0
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number):
        while not self.is_over.is_set():
            try:
                answer = Rest(self.port).send("POST", "/v1/completions", {
                    "prompt": f"Client {number} says", "max_tokens": 48, "temperature": 0,
                    "ignore_eos": True, "stream": True})
                if answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n"):
                    self.good += 1
                else:
                    self.bad.append((time.strftime('%T'), answer.status, answer.body[-200:]))
            except OSError as error:
                self.bad.append(error)

    def stop(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(120)


def bring_up_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sh", b"lo", 0x41)  # UP, RUNNING
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS


def worker(host):
    return Process("worker", "--model", MODEL, "--host", host, "--threads", 1,
                   "--kv-cache-memory", "48MiB", "--replicas-on-host", 2,
                   # Long: on a busy machine nobody may count as silent here.
                   "--lease-ms", 15_000)


def main():
    bring_up_loopback()
    with tempfile.NamedTemporaryFile("w") as resolv:
        resolv.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolv.flush()
        subprocess.run(["mount", "--bind", resolv.name, os.path.realpath("/etc/resolv.conf")], check=True)
    dns = DnsServer()
    first, second = worker("127.0.0.2"), worker("127.0.0.3")
    for process in (first, second):
        process.wait_for_line("worker plane on")
    dns.addresses = ["127.0.0.2"]
    router = Process("router", "--workers", f"dns:///{NAME}:50061", "--port", 8000)

    def metric(name, **labels):
        answer = Rest(8002).get("/metrics")
        return metric_sum(answer.body.decode(), name, **labels)

    def ready():
        return metric("paceline_router_replica_state", state="ready")

    router.wait_for_line("is ready")
    eventually(lambda: Rest(8000).get("/ready").status == 200 and ready() == 1, 120, "one serves")
    clients = Clients(8000, threads=4)
    eventually(lambda: clients.good > 4, 120, "answers come")

    start = time.monotonic()
    dns.addresses = ["127.0.0.2", "127.0.0.3"]
    eventually(lambda: ready() == 2, 120, "the one that joined is ready")
    print(f"joined after {time.monotonic() - start:.1f} s")

    dns.addresses = None
    router.wait_for_line("name look-up failed")
    dns.let_look()
    assert ready() == 2, "a name that does not exist takes nobody away"

    dns.addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.9"]  # the last has no worker: a stale answer
    dns.let_look()
    assert ready() == 2

    for _ in range(2):  # flapping: answers with one of two
        for addresses in (["127.0.0.2"], ["127.0.0.3"]):
            dns.addresses = addresses
            dns.let_look(1)
    dns.addresses = ["127.0.0.2", "127.0.0.3"]
    dns.let_look()
    eventually(lambda: ready() == 2, 120, "both serve again")

    dns.addresses = ["127.0.0.3"]  # as Kubernetes does it: gone from DNS, and told to stop
    first.signal(signal.SIGTERM)
    assert first.wait(120) == 0
    eventually(lambda: metric("paceline_router_replica_state") == 1, 120, "the one that left is forgotten")
    before = clients.good
    eventually(lambda: clients.good > before + 4, 120, "the other one answers")

    clients.stop()
    assert not clients.bad, f"{clients.bad[:3]}\n{router.log}"
    assert router.stop() == 0
    assert second.stop() == 0
    print(f"{clients.good} answers, none failed")


if __name__ == "__main__":
    main()
