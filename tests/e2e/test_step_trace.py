"""--step-trace: a file of steps that is whole whatever becomes of the process, and that agrees with what
was answered."""

import json
import os
import signal

from support.cluster import MODEL, run
from support.processes import eventually
from support.rest import Rest

PHASES = ("schedule", "prepare", "forward", "commit", "frames")


def spans(path):
    with open(path) as file:
        return [event for event in json.load(file) if event["ph"] == "X"]


def total(events, name, arg):
    return sum(event["args"][arg] for event in events if event["name"] == name)


def complete(port, tokens):
    return Rest(port).complete(prompt="One two three", max_tokens=tokens, ignore_eos=True)["usage"]


def test_generate(tmp_path):
    path = tmp_path / "trace.json"
    lines = b"".join(b'{"prompt":"Line %d","max_tokens":7,"ignore_eos":true}\n' % i for i in range(3))
    result = run("generate", MODEL, "-f", "-", "--no-enable-prefix-caching", "--step-trace", path, stdin=lines)
    assert result.returncode == 0, result.stderr
    usage = [json.loads(line)["usage"] for line in result.stdout.splitlines()]
    events = spans(path)
    steps = sum(event["name"] == "step" for event in events)
    for phase in PHASES:
        assert sum(event["name"] == phase for event in events) == steps, phase
    assert total(events, "sampling", "rows") == sum(u["completion_tokens"] for u in usage) == 21
    rows = sum(u["prompt_tokens"] + u["completion_tokens"] - 1 for u in usage)  # the last is not fed back
    assert total(events, "forward", "rows") == rows


def test_bench_and_environment(tmp_path):
    path = tmp_path / "trace.json"
    result = run("bench", MODEL, "--prompt-tokens", 4, "--output-tokens", 5, "--repetitions", 1,
                 env={"PACELINE_STEP_TRACE": str(path)})
    assert result.returncode == 0, result.stderr
    assert sum(event["name"] == "step" for event in spans(path)) == 5


def test_serve_writes_a_file_per_replica(start_cluster, tmp_path):
    path = tmp_path / "trace.json"
    cluster = start_cluster("--step-trace", path, "--balance", "round_robin", replicas=2)
    usage = [complete(cluster.port, 6) for _ in range(4)]
    pids = set(cluster.workers())
    assert cluster.stop() == 0
    files = [tmp_path / "trace.0.json", tmp_path / "trace.1.json"]
    assert sorted(tmp_path.iterdir()) == files
    events = [spans(file) for file in files]
    assert {event["pid"] for of_worker in events for event in of_worker} == pids
    for of_worker in events:
        assert total(of_worker, "sampling", "rows") == 12
    assert sum(u["completion_tokens"] for u in usage) == 24


def test_a_killed_worker_leaves_a_whole_file(start_cluster, tmp_path):
    path = tmp_path / "trace.json"
    cluster = start_cluster("--step-trace", path, replicas=1)
    complete(cluster.port, 6)

    def all_there():
        try:
            return total(spans(path), "sampling", "rows") == 6
        except ValueError:  # read in the middle of a write
            return False

    eventually(all_there, 120, "six tokens in the trace")
    pids = cluster.workers()
    os.kill(cluster.pid, signal.SIGKILL)  # takes its worker with it
    eventually(lambda: cluster.all_gone(pids), 120, "the worker is gone")
    assert total(spans(path), "sampling", "rows") == 6


def test_a_file_that_cannot_be_written(tmp_path):
    for command in (("generate", MODEL, "-p", "x"), ("bench", MODEL),
                    ("worker", "--model", MODEL, "--port", 0), ("serve", MODEL, "--replicas", 2)):
        result = run(*command, "--step-trace", "/nowhere/trace.json")
        text = result.stderr.decode()
        assert result.returncode == 2, (command, text)
        assert "--step-trace /nowhere/trace" in text and "No such file or directory" in text, text
        assert result.stdout == b""
    result = run("generate", MODEL, "-p", "x", "--step-trace", "/dev/full")
    assert result.returncode == 2 and b"No space left" in result.stderr
