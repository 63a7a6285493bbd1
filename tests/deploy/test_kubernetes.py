"""`--workers kubernetes:///…`: joins and leaves, a watch that breaks or is too old, a missing role and a new
token, under load and without a failed answer. In a namespace where a pod's files can be put in place."""

import os
import subprocess
import sys

import pytest

import chart
from support.cluster import run


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace needs root")
def test_workers_come_and_go_behind_a_service():
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--fork", "--kill-child", sys.executable,
         os.path.join(chart.HERE, "kubernetes_scenario.py")], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("env, says", [
    ({}, "KUBERNETES_SERVICE_HOST"),
    ({"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}, "/token is not there")])
def test_outside_of_a_pod_it_says_so(env, says):
    outside = {"KUBERNETES_SERVICE_HOST": "", "KUBERNETES_SERVICE_PORT": ""} if not env else env
    result = run("router", "--workers", "kubernetes:///workers:50061", "--port", 0, "--grpc-port", 0,
                 "--operator-port", 0, env={k: v for k, v in outside.items() if v}, timeout=120)
    assert result.returncode == 2
    assert says in result.stderr.decode()
