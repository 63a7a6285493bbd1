"""Fixtures of the fault tests."""

import random

import pytest

from load import Load, Undisturbed
from support.cluster import Router, Worker
from support.processes import eventually, free_port
from support.rest import Rest



OPTIONS = ("--max-model-len", 2048, "--kv-cache-memory", "96MiB", "--replicas-on-host", 2)


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
        router = self.keep(Router(ports, *options, **more))
        self.routers.append(router)
        eventually(lambda: router.ready_replicas() == len(ports), 30, "all replicas are ready")
        eventually(lambda: Rest(router.port).get("/ready").status == 200, 30, "it is ready itself")
        return router

    def load(self, *servers, seed=1):
        return Load(servers or self.routers, self._pb, self._undisturbed, seed).start()

    def busiest(self):
        """The worker that runs most, as the first router sees it."""
        def look():
            running = self.routers[0].sequences()
            count, found = max(((running.get(worker.ranks[0], 0), worker) for worker in self.workers),
                               key=lambda pair: pair[0])
            return found if count > 0 else None
        return eventually(look, 30, "a worker runs something")

    def restart(self, worker, **more):
        """Another one in the place of one that has ended; its routers may need a while to see it."""
        worker.wait()
        again = self.keep(Worker(*worker.options, port=worker.worker_port, **more))
        self.workers[self.workers.index(worker)] = again
        return again

    def wait_until_ready(self):
        for router in self.routers:
            eventually(lambda: router.ready_pids() == {worker.ranks[0] for worker in self.workers},
                       30, "all replicas are ready")

    def check_whole(self, load, num_faults):
        """Ends the load and everything: nothing was lost, though streams had to move."""
        whole = load.stop().check()
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
