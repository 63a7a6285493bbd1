"""What a network between router and worker can do: be silent, one way or both, be slow, cut, close
half, break, and change bytes. No stream is lost and no byte changes."""

import time

import pytest

from load import wait_for_end
from proxy import Proxy
from support.processes import eventually


@pytest.fixture
def proxied(site):
    """Two workers behind a proxy each, a router over them; the first proxy is to be ill-used."""
    site.add_workers(2)
    proxies = [Proxy(worker.worker_port) for worker in site.workers]
    site.add_router(ports=[proxy.port for proxy in proxies])
    yield site, proxies
    for proxy in proxies:
        proxy.close()


def is_ready(site, number):
    return site.workers[number].pid in site.routers[0].ready_pids()


def wait_until_lost(site, number):
    eventually(lambda: not is_ready(site, number), 120, "its silence is noticed")


@pytest.mark.parametrize("ways", [
    ["drop_down"], pytest.param(["drop_up"], marks=pytest.mark.long),
    pytest.param(["drop_up", "drop_down"], marks=pytest.mark.long)], ids="+".join)
def test_silence(proxied, ways):
    site, (proxy, _) = proxied
    load = site.load()
    hit = load.wait_until_busy()
    site.wait_until_hit(site.workers[0], load)
    for way in ways:
        setattr(proxy, way, True)
    wait_until_lost(site, 0)
    wait_for_end(hit)
    hit = load.wait_until_busy(4)  # it goes on with the other one
    for way in ways:
        setattr(proxy, way, False)
    proxy.reset()  # what was swallowed will not come any more: TCP would have given up
    site.wait_until_ready()
    wait_for_end(hit)
    site.check_whole(load, 1)


@pytest.mark.parametrize("how", [
    "half_close", pytest.param("reset", marks=pytest.mark.long)])
def test_a_broken_connection(proxied, how):
    site, (proxy, _) = proxied
    load = site.load()
    hit = load.wait_until_busy()
    site.wait_until_hit(site.workers[0], load)
    getattr(proxy, how)()
    wait_for_end(hit)
    site.wait_until_ready()
    site.check_whole(load, 1)


def test_changed_bytes(proxied):
    """A token that is another one looks as good as the right one: only the checksum tells."""
    site, (proxy, _) = proxied
    load = site.load()
    for _ in range(2):
        hit = load.wait_until_busy()
        site.wait_until_hit(site.workers[0], load)
        proxy.damage()
        eventually(lambda: proxy.is_damage_done, 120, "a frame was damaged")
        wait_for_end(hit)
        site.wait_until_ready()
    # By its checksum; or, if the bit made it no message at all, by the silence that gRPC then keeps.
    site.routers[0].wait_for_line("lost replica")
    site.check_whole(load, 2)


@pytest.mark.long
def test_slow_and_cut_anywhere(proxied):
    """Within the lease nobody is given up."""
    site, proxies = proxied
    for proxy in proxies:
        proxy.chunk = 7
    load = site.load()
    wait_for_end(load.wait_until_busy())
    for proxy in proxies:
        proxy.chunk, proxy.delay = 4096, 0.05
    wait_for_end(load.wait_until_busy())
    load.stop().check()
    assert site.routers[0].metric("paceline_router_failovers_total") == 0
    site.stop()


@pytest.mark.long
def test_a_flapping_link(proxied):
    """Broken and refused for a second, then whole for one, and again."""
    site, (proxy, _) = proxied
    load = site.load()
    load.wait_until_busy()
    for _ in range(15):
        proxy.refuses = True
        proxy.reset()
        time.sleep(1)
        proxy.refuses = False
        time.sleep(1)
    site.wait_until_ready()
    site.check_whole(load, 15)
