"""Fixtures of the fault tests."""

import random
import re

import pytest

from load import Load, Undisturbed
from support.cluster import Router, Worker
from support.processes import eventually, free_port
from support.rest import Rest


OPTIONS = ("--max-model-len", 2048, "--kv-cache-memory", "96MiB", "--replicas-on-host", 2)
# For workers that must not count as silent, however busy the machine is.
PATIENT = ("--lease-ms", 300_000)


@pytest.fixture(scope="session")
def undisturbed():
    return Undisturbed()


@pytest.fixture
def dice():
    return random.Random(16)


class Site:
    """Workers and routers, each a process under this test's supervision; and load on them."""

    def __init__(self, pb, undisturbed):
        self._pb = pb
        self._undisturbed = undisturbed
        self._started = []
        self.workers = []
        self.routers = []

    def keep(self, process):
        """It ends with the test."""
        self._started.append(process)
        return process

    def add_worker(self, *options, port=None, **more):
        """On a port that is the same when its ranks are started anew."""
        worker = self.keep(Worker(*OPTIONS, *options, port=port or free_port(), **more))
        self.workers.append(worker)
        return worker

    def add_workers(self, count, *options):
        for worker in [self.add_worker(*options) for _ in range(count)]:
            assert worker.worker_port

    def add_router(self, *options, ports=None, **more):
        """Over all workers, unless other `ports` lead to them; ready for requests."""
        ports = ports or [worker.worker_port for worker in self.workers]
        # Its log tells where requests run; those that are alone may wait for any time.
        router = self.keep(Router(ports, "--log-level", "debug", "--failover-wait-seconds", 300, *options, **more))
        self.routers.append(router)
        eventually(lambda: router.ready_replicas() == len(ports), 120, "all replicas are ready")
        eventually(lambda: Rest(router.port).get("/ready").status == 200, 120, "it is ready itself")
        return router

    def load(self, *servers, seed=1):
        return Load(servers or self.routers, self._pb, self._undisturbed, seed).start()

    def worker_of(self, ask, attempt=1):
        """The worker that a request was sent to by the first router."""
        found = self.routers[0].wait_for_line(
            rf"request {ask.id} goes to replica \S+-(\d+) as \S+#0\.{attempt}:")
        return next(worker for worker in self.workers if worker.ranks[0] == int(found[1]))

    def wait_until_hit(self, worker, load):
        """The streams that the first router has at `worker`, once there are some: in the midst of their answers, so
        that a fault now hits them."""
        def look():
            places = {}
            for line in list(self.routers[0].lines):
                if found := re.search(r"request (\S+) goes to replica \S+-(\d+) as ", line):
                    places[found[1]] = int(found[2])
            return [ask for ask in load.in_the_midst() if places.get(ask.id) == worker.ranks[0]]
        return eventually(look, 120, "streams run there")

    def restart(self, worker, **more):
        """Another one in the place of one that has ended; its routers may need a while to see it."""
        worker.wait()
        again = self.keep(Worker(*worker.options, port=worker.worker_port, **more))
        self.workers[self.workers.index(worker)] = again
        return again

    def wait_until_ready(self):
        for router in self.routers:
            eventually(lambda: router.ready_pids() == {worker.ranks[0] for worker in self.workers},
                       120, "all replicas are ready")

    def check_whole(self, load, num_faults, errors=()):
        """Ends the load and everything: nothing was lost, though streams had to move. `errors`: what may become of
        requests that have not begun."""
        whole = load.stop().check(errors)
        assert not any(ask.error and ask.times for ask in load.asked), "what had begun was lost"
        tokens = sum(ask.said.num_tokens for ask in whole)
        print(f"{num_faults} faults: {len(whole)} streams, {tokens} tokens")
        for router in self.routers:
            router.wait_idle()
        assert self.routers[0].metric("paceline_router_failovers_total") > 0
        self.stop()

    def stop(self):
        """In good order: what has not been killed ends with status 0."""
        for process in [*self.routers, *self.workers]:
            if process.popen.poll() is None:
                assert process.stop() == 0, process.log

    def kill(self):
        for process in self._started:
            process.kill()


@pytest.fixture
def site(pb, undisturbed):
    processes = Site(pb, undisturbed)
    yield processes
    processes.kill()
