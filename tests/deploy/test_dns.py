"""`--workers dns:///…`: joins, leaves, flapping, a name that does not exist and stale answers, under
load and without a failed answer. In a network namespace, where the DNS port is free."""

import os
import subprocess
import sys

import pytest

import chart


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_workers_come_and_go_under_a_name():
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--fork", "--kill-child", sys.executable,
         os.path.join(chart.HERE, "dns_scenario.py")], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
