"""What the tests look up about processes, in /proc, and waiting for a condition."""

import ctypes
import os
import socket
import time


def children(pid):
    """Pids of the direct children, zombies excluded."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                found += [int(child) for child in f.read().split()]
    except OSError:
        return []
    return sorted(child for child in found if is_alive(child))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def rss_bytes(pid):
    """Resident anonymous memory: the mapped model file is the page cache's, not the process's."""
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def sockets(pid):
    found = (os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))
    return {target for target in found if target.startswith("socket:")}


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


_reserved = []


def free_port(host="127.0.0.1"):
    """A port that stays reserved for this test run: it is bound here and never listened at, so nobody is given it,
    and only who asks for it by number and sets SO_REUSEADDR, as servers do, can have it, again and again."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    _reserved.append(holder)
    return holder.getsockname()[1]


def eventually(check, timeout, what):
    """Polls until check() is true and returns its value; fails after `timeout` seconds, which are to be far more than
    the slowest machine needs."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.02)


def stop_thread(pid, name):
    """Makes one thread of a process stand still for good, while all others run. Returns what tells whether it has
    ended, which is to be asked until then: the process does not end before."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long] * 4
    tids = [int(task) for task in os.listdir(f"/proc/{pid}/task")
            if open(f"/proc/{pid}/task/{task}/comm").read().strip() == name]
    assert len(tids) == 1, tids
    wall = 0x40000000

    def has_ended():
        found, status = os.waitpid(tids[0], wall | os.WNOHANG)
        return found != 0 and not os.WIFSTOPPED(status)
    for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
        if ptrace(request, tids[0], 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    eventually(lambda: os.waitpid(tids[0], wall | os.WNOHANG)[0] != 0, 120, "the thread stands still")
    return has_ended
