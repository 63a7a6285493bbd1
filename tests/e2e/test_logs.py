"""--log-format json: every line is an object, requests are named, and nothing of what clients send or show
as their key is in any log, metric or page."""

import base64
import json
import os
import re
import signal

import grpc
import pytest

from support.cluster import CANARY, MODEL, Process, Router, Worker, run
from support.processes import eventually
from support.rest import Rest

KEY = f"key-{CANARY}-good"
WRONG = f"key-{CANARY}-wrong"
JSON = ("--log-format", "json", "--log-level", "trace")
OPTIONS = (*JSON, "--max-model-len", 1024, "--kv-cache-memory", "64MiB", "--replicas-on-host", 2, "--lease-ms", 300_000,
           "--operator-port", 0)
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
# What it might look like, had somebody encoded it.
FORMS = {CANARY, CANARY.lower(), CANARY.upper(), CANARY.encode().hex(),
         base64.b64encode(CANARY.encode()).decode()[:12], "".join(rf"\u{ord(c):04x}" for c in CANARY)}


class Site:
    def __init__(self):
        self.workers = [Worker(*OPTIONS) for _ in range(2)]
        self.router = Router([w.worker_port for w in self.workers], *JSON, "--api-key", f"acme:{KEY}",
                             "--admin-port", 0, "--admin-key", f"admin-{CANARY}")
        eventually(lambda: Rest(self.router.port).get("/ready").status == 200, 120, "a replica is ready")
        eventually(lambda: self.router.ready_replicas() == 2, 120, "both are")

    def processes(self):
        return [self.router, *self.workers]

    def lines(self):
        return [line for process in self.processes() for line in list(process.lines)]

    def pages(self):
        """What operators see, by where."""
        yield "status page", self.router.operator("/")
        yield "router metrics", self.router.operator("/metrics")
        for worker in self.workers:
            if worker.popen.poll() is None:
                port = int(worker.wait_for_line(r"metrics on http://[^:]+:(\d+)")[1])
                yield "worker metrics", Rest(port).get("/metrics").body.decode()

    def close(self):
        for process in self.processes():
            process.kill()


def http_load(port):
    """Every place where a client can put text, with and without success."""
    rest = Rest(port, KEY)
    trace = {"traceparent": TRACEPARENT}
    text = f"The word is {CANARY}. "
    for body in (
            {"prompt": text, "max_tokens": 4, "echo": True, "request_id": "one"},
            {"prompt": text, "max_tokens": 4, "stop": [CANARY], "cache_salt": CANARY, "stream": True},
            {"prompt": text, "max_tokens": 4, "suffix": CANARY},
            {"prompt": text, CANARY: 1},
            {"prompt": text, "model": CANARY},
            {"prompt": text, "max_tokens": CANARY},
            {"prompt": text * 400, "max_tokens": 4}):
        rest.post("/v1/completions", body, headers=trace)
    for messages in ([{"role": "system", "content": text}, {"role": "user", "content": text, "name": CANARY}],
                     [{"role": CANARY, "content": text}],
                     [{"role": "user", "content": text}] * 300):
        rest.post("/v1/chat/completions", {"messages": messages, "max_tokens": 4, "user": CANARY},
                  headers=trace)
    rest.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "tools": [
        {"type": "function", "function": {"name": CANARY, "parameters": {}}}]}, headers=trace)
    rest.post("/tokenize", {"prompt": text})
    rest.post("/v1/completions", f'{{"prompt": "{CANARY}'.encode())
    rest.post("/v1/completions", b'{"prompt": "' + CANARY.encode() + b'\xff"}')
    rest.get(f"/{CANARY}?{CANARY}")
    rest.send(CANARY, "/v1/models")
    for headers in ({"Authorization": f"Bearer {WRONG}"}, {"Authorization": CANARY},
                    {"Cookie": CANARY}, {"X-Request-Timeout": CANARY}, {"traceparent": CANARY}):
        Rest(port).post("/v1/completions", {"prompt": text, "max_tokens": 1}, headers=headers)


def grpc_load(pb, address):
    with grpc.insecure_channel(address) as channel:
        stub = pb.InferenceStub(channel)
        metadata = (("authorization", f"Bearer {KEY}"), ("x-request-id", "two"), ("traceparent", TRACEPARENT))
        stub.Generate(pb.GenerateRequest(text=f"Say {CANARY}", sampling=pb.SamplingParams(max_tokens=3)),
                      metadata=metadata)
        for bad, secret in ((pb.GenerateRequest(text=CANARY, model=CANARY), KEY),
                            (pb.GenerateRequest(text=CANARY), WRONG)):
            with pytest.raises(grpc.RpcError):
                stub.Generate(bad, metadata=(("authorization", f"Bearer {secret}"), ("x-c", CANARY)))


def lose_a_worker(site):
    """While it streams, so that a failover is logged."""
    eventually(lambda: not any(site.router.sequences().values()), 120, "what was asked before is over")
    stream = Rest(site.router.port, KEY).stream("/v1/completions", {
        "prompt": f"Once upon a time {CANARY}", "max_tokens": 900, "temperature": 0, "ignore_eos": True})
    for _ in range(5):
        next(stream)
    pid = eventually(lambda: next((pid for pid, count in site.router.sequences().items() if count), None),
                     120, "a worker says that it runs it")
    os.kill(pid, signal.SIGKILL)
    for _ in stream:
        pass
    assert stream.done


@pytest.fixture(name="site", scope="module")
def _site(pb):
    site = Site()
    http_load(site.router.port)
    grpc_load(pb, site.router.grpc_address)
    lose_a_worker(site)
    yield site
    site.close()


def test_every_line_is_an_object_with_the_usual_members(site):
    lines = site.lines()
    assert len(lines) > 30
    for line in lines:
        record = json.loads(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", record["time"]), line
        assert record["level"] in ("trace", "debug", "info", "warning", "error", "critical")
        assert record["component"] in ("router", "worker")
        assert record["pid"] in {p.pid for p in site.processes()}
        assert record["message"]


def test_lines_about_a_request_name_it_and_its_trace(site):
    records = [json.loads(line) for line in site.lines()]
    for component in ("router", "worker"):
        for name in ("one", "two"):
            about = [r for r in records if r["component"] == component
                     and re.match(rf"{name}(~|$)", r.get("request_id", ""))]
            assert about, (component, name)
            assert all(r["trace_id"] == TRACE and re.fullmatch("[0-9a-f]{16}", r["span_id"]) for r in about)
    for record in records:
        if re.match(r"request [^ ]+ ", record["message"]) and "(not prepared)" not in record["message"]:
            assert record["request_id"], record
        assert "trace_id=" not in record["message"]
    assert any("goes to replica" in r["message"] for r in records)


def test_nothing_of_clients_is_in_any_log_metric_or_page(site):
    text = "\n".join(site.lines())
    for form in FORMS:
        assert form not in text, form
    for where, page in site.pages():
        assert len(page) > 100, where
        for form in FORMS:
            assert form not in page, (where, form)


def test_the_search_would_find_it():
    """The marker does come through where it should: in the answer."""
    assert any(form in json.dumps({"text": f"a {CANARY} b"}) for form in FORMS)


def test_serve_says_json_only():
    server = Process("serve", MODEL, "--port", 0, "--grpc-port", 0, "--operator-port", 0,
                     "--log-format", "json", "--kv-cache-memory", "64MiB")
    server.wait_for_line('"message":"ready after')
    assert server.stop() == 0
    for line in server.lines:
        assert json.loads(line)["component"] in ("serve", "worker"), line


def test_the_last_words_are_json_too():
    result = run("router", "--workers", "127.0.0.1:1", "--host", "192.0.2.1", "--log-format", "json")
    assert result.returncode == 1
    last = json.loads(result.stderr.splitlines()[-1])
    assert last["level"] == "critical" and "192.0.2.1" in last["message"]
