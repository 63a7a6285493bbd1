"""A full disk, no memory, no file descriptors, a clock that jumps. What can go on does; what cannot
ends, and its streams go on elsewhere."""

import glob
import os
import resource
import signal
import socket
import subprocess
import sys

import grpc
import pytest

from conftest import PATIENT
from load import wait_for_end
from support.cluster import Router
from support.processes import eventually, free_port
from support.rest import Rest

FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")


def check_undisturbed(site, load):
    load.stop().check()
    assert site.routers[0].metric("paceline_router_failovers_total") == 0
    site.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_disk_full(site, tmp_path):
    """Log and step trace are lost, and nothing else."""
    on_small_disk = ("unshare", "-m", "sh", "-c",
                     f'mount -t tmpfs -o size=256k tmpfs {tmp_path} && exec "$@" 2>/dev/full', "sh")
    ports = [free_port() for _ in range(2)]
    for port in ports:
        site.add_worker(*PATIENT, "--log-level", "debug", "--step-trace", tmp_path / "trace.json", port=port,
                        into=on_small_disk)
    site.add_router(ports=ports)
    load = site.load()
    hit = load.wait_until_busy()
    eventually(lambda: all(ask.is_over for ask in hit), 120, "they end")
    check_undisturbed(site, load)


def test_out_of_memory(site):
    """A worker that may not allocate any more dies rather than hang or answer wrongly."""
    site.add_workers(2)
    worker = site.workers[0]
    site.add_router()
    _, hard = resource.prlimit(worker.pid, resource.RLIMIT_DATA)
    resource.prlimit(worker.pid, resource.RLIMIT_DATA, (1 << 20, hard))
    load = site.load()
    # By the engine, or by whoever else needed some first.
    assert worker.wait(120) in (3, -signal.SIGABRT), worker.log
    assert "cannot allocate" in worker.log or "bad_alloc" in worker.log
    site.restart(worker)
    site.wait_until_ready()
    site.check_whole(load, 1)


def test_out_of_memory_at_the_start(site):
    """Too little for the weights: the worker says so and ends."""
    worker = site.add_worker(into=("prlimit", f"--data={40 << 20}"))
    status = worker.wait(120)
    assert status in (1, -signal.SIGABRT), worker.log
    assert "memory" in worker.log or "alloc" in worker.log


def test_no_file_descriptors_left(site):
    """Those who come are refused or wait; who is served is, and afterwards all are."""
    site.add_workers(1)
    router = site.add_router()
    used = len(os.listdir(f"/proc/{router.pid}/fd"))
    load = site.load()
    load.wait_until_busy(4)
    soft, hard = resource.prlimit(router.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (used + 24, hard))
    idle = [socket.create_connection(("127.0.0.1", router.port)) for _ in range(60)]
    hit = load.live()
    eventually(lambda: all(ask.is_over for ask in hit), 120, "who is served stays so")
    assert all(ask.error is None and ask.failure is None for ask in hit)
    load.stop_asking()
    for connection in idle:
        connection.close()
    eventually(lambda: Rest(router.port).get("/ready", timeout=60).status == 200, 120, "it answers again")
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (soft, hard))
    load.stop().check(broken=[router])
    site.stop()


def starve(process):
    """No more descriptors for it; returns what gives them back."""
    used = len(os.listdir(f"/proc/{process.pid}/fd"))
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, hard))
    return lambda: resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_grpc_ports_outlive_a_shortage_of_descriptors(site):
    """Those who come wait, and are let in as soon as there is room; gRPC's own listener is dead from then on."""
    worker = site.add_worker()
    port = worker.worker_port
    router = site.add_router()
    lift = starve(worker)
    other = site.keep(Router([port]))
    worker.wait_for_line("gRPC port .* new connections wait: Too many open files")
    assert other.ready_replicas() == 0
    lift()
    eventually(lambda: other.ready_replicas() == 1, 120, "the second router has its worker")

    lift = starve(router)
    with socket.create_connection(("127.0.0.1", router.grpc_port)):
        router.wait_for_line("gRPC port .* new connections wait: Too many open files")
    lift()
    with grpc.insecure_channel(router.grpc_address) as channel:
        grpc.channel_ready_future(channel).result(timeout=120)
    site.stop()


@pytest.mark.long
def test_starved_of_processors(site):
    """More threads than processors, and others that want them all: slow, but nothing is lost."""
    for worker in [site.add_worker("--threads", 4) for _ in range(2)]:
        assert worker.worker_port
    site.add_router()
    load = site.load()
    hit = load.wait_until_busy()
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        wait_for_end(hit)
        wait_for_end(load.wait_until_busy(4))
    finally:
        for other in others:
            other.kill()
            other.wait()
    load.stop().check()
    site.stop()


@pytest.mark.long
@pytest.mark.skipif(not FAKETIME, reason="needs the Debian package libfaketime")
def test_the_clock_jumps(site, tmp_path):
    """Leases, deadlines and rates go by a clock that nobody sets."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    env = {"LD_PRELOAD": FAKETIME[0], "FAKETIME_TIMESTAMP_FILE": str(offset),
           "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    for _ in range(2):
        site.add_worker(*PATIENT, env=env)
    site.add_router(env=env)
    load = site.load()
    for jump in ("+1h", "-1h", "+0"):
        load.wait_until_busy()
        offset.write_text(jump)
        hit = load.live()
        eventually(lambda: all(ask.is_over for ask in hit), 120, "they end")
    check_undisturbed(site, load)
