"""Traces over OTLP, as a collector that knows the published schema receives them."""

import os
import signal
import subprocess
import time

import pytest

from support.cluster import CANARY, MODEL, MODEL_NAME, run
from support.collector import Collector, new_traceparent
from support.processes import eventually
from support.rest import Rest

OPTIONS = ("--max-model-len", 1024, "--kv-cache-memory", "64MiB", "--lease-ms", 300_000)
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
QUESTION = {"messages": [{"role": "user", "content": f"Say {CANARY}."}], "max_tokens": 8,
            "ignore_eos": True}


@pytest.fixture(name="collector", scope="module")
def _collector():
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(name="traced", scope="module")
def _traced(collector, start_cluster):
    return start_cluster(*OPTIONS, "--otlp-traces-endpoint", collector.url,
                         "--api-key", f"acme:key-{CANARY}", env=QUICK)


@pytest.fixture(name="ask")
def _ask(traced):
    return Rest(traced.port, f"key-{CANARY}")


def by_name(spans, service):
    return {span.name.split(" ")[0]: span for span in spans if span.service == f"paceline-{service}"}


PARTS = ("router:chat", "router:template", "router:tokenise", "router:queue", "router:dispatch",
         "worker:queue", "worker:prefill", "worker:decode")


def check_tree(spans, trace_id, client_id, start, end):
    router, worker = by_name(spans, "router"), by_name(spans, "worker")
    root = router["chat"]
    assert root.name == f"chat {MODEL_NAME}"
    assert root.parent_id == client_id
    assert root.kind == 2, "a server's span"
    assert start <= root.start <= root.end <= end
    for name in ("template", "tokenise", "queue", "dispatch"):
        assert router[name].parent_id == root.id, name
        assert root.start <= router[name].start <= router[name].end <= root.end, name
    dispatch = router["dispatch"]
    for name in ("queue", "prefill", "decode"):
        assert worker[name].parent_id == dispatch.id, name
    assert worker["queue"].end == worker["prefill"].start
    assert worker["prefill"].end == worker["decode"].start < worker["decode"].end
    assert root.attributes["gen_ai.usage.output_tokens"] == 8
    assert worker["decode"].attributes["paceline.tokens"] == 8
    assert root.resource["service.version"]
    assert worker["decode"].resource["service.instance.id"] == dispatch.attributes["paceline.replica"]
    assert len({span.id for span in spans}) == len(spans)
    assert all(span.trace_id == trace_id and not span.error for span in spans)


def test_over_http_under_the_clients_trace(collector, ask):
    trace_id, client_id, header = new_traceparent()
    start = time.time()
    assert ask.post("/v1/chat/completions", QUESTION, headers={"traceparent": header}).status == 200
    spans = collector.wait_for(trace_id, *PARTS)
    check_tree(spans, trace_id, client_id, start, time.time())
    path, headers = collector.requests[0]
    assert path == "/v1/traces"
    assert headers["Content-Type"] == "application/x-protobuf"


def test_over_grpc_under_the_clients_trace(collector, traced, pb):
    import grpc
    trace_id, client_id, header = new_traceparent()
    start = time.time()
    with grpc.insecure_channel(traced.grpc_address) as channel:
        pb.InferenceStub(channel).Chat(
            pb.ChatRequest(messages=[pb.ChatMessage(role="user", content="Hello")],
                           sampling=pb.SamplingParams(max_tokens=8, ignore_eos=True)),
            metadata=(("traceparent", header), ("authorization", f"Bearer key-{CANARY}")))
    spans = collector.wait_for(trace_id, *PARTS)
    check_tree(spans, trace_id, client_id, start, time.time())


def test_a_request_without_a_trace_begins_one(collector, ask):
    before = {span.trace_id for span in collector.spans}
    ask.complete(prompt="Hello", max_tokens=3)
    root = eventually(lambda: [s for s in collector.spans if s.name.startswith("text_completion")
                               and s.trace_id not in before], 120, "a trace")[0]
    assert root.parent_id == ""
    collector.wait_for(root.trace_id, "tokenise", "dispatch", "prefill", "decode")


def test_a_trace_that_its_client_does_not_record_is_not_recorded(collector, ask):
    trace_id, _, header = new_traceparent(sampled=False)
    assert ask.post("/v1/chat/completions", QUESTION, headers={"traceparent": header}).status == 200
    other, _, header = new_traceparent()
    ask.post("/v1/chat/completions", QUESTION, headers={"traceparent": header})
    collector.wait_for(other, *PARTS)
    assert not collector.of(trace_id)


def test_an_error_is_one(collector, ask):
    trace_id, _, header = new_traceparent()
    body = dict(QUESTION, max_tokens=100_000)
    assert ask.post("/v1/chat/completions", body, headers={"traceparent": header}).status == 400
    root = by_name(collector.wait_for(trace_id, "router:chat"), "router")["chat"]
    assert root.error == root.attributes["error.type"] == "context_length_exceeded"


def test_a_failover_is_a_span_with_both_replicas(collector, traced, ask):
    trace_id, _, header = new_traceparent()
    ask.headers["traceparent"] = header
    eventually(lambda: not any(traced.sequences().values()), 120, "what was asked before is over")
    stream = ask.stream("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 900,
                                            "temperature": 0, "ignore_eos": True})
    for _ in range(10):
        next(stream)
    pid = eventually(lambda: next((pid for pid, count in traced.sequences().items() if count), None),
                     120, "a worker says that it runs it")
    os.kill(pid, signal.SIGKILL)
    for _ in stream:
        pass
    assert stream.done
    spans = collector.wait_for(trace_id, "router:text_completion", "failover", "dispatch", "dispatch",
                               "worker:decode")
    failover = by_name(spans, "router")["failover"]
    first, second = sorted((s for s in spans if s.name == "dispatch"), key=lambda s: s.start)
    assert first.error == "replica_lost" and not second.error
    assert failover.attributes["paceline.replica.from"] == first.attributes["paceline.replica"]
    assert failover.attributes["paceline.replica.from"].endswith(f"-{pid}")
    assert failover.attributes["paceline.replica.to"] == second.attributes["paceline.replica"]
    assert failover.attributes["paceline.resumed_tokens"] >= 10
    assert first.end <= failover.start <= failover.end == second.start
    assert by_name(spans, "worker")["decode"].parent_id == second.id, "the dead one told nobody"
    assert not by_name(spans, "router")["text_completion"].error


def test_metrics_and_no_secrets(collector, traced):
    assert traced.metric("paceline_router_trace_spans_total", outcome="exported") > 4
    assert traced.metric("paceline_router_trace_spans_total", outcome="dropped") == 0
    assert traced.metric("paceline_router_trace_spans_total", outcome="failed") == 0
    for stage in ("template", "tokenise"):
        assert traced.metric("paceline_router_text_seconds_count", stage=stage) > 0
    assert collector.bodies and not any(CANARY.encode() in body for body in collector.bodies)


def test_what_waits_is_sent_at_the_end(start_cluster):
    collector = Collector()
    server = start_cluster(*OPTIONS, replicas=1, env={
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url.removesuffix("/v1/traces"),
        "OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=t%20t"})
    trace_id, _, header = new_traceparent()
    Rest(server.port).post("/v1/chat/completions", QUESTION, headers={"traceparent": header})
    assert not collector.spans
    assert server.stop() == 0
    found = {span.name.split(" ")[0] for span in collector.of(trace_id)}
    assert found >= {"chat", "template", "tokenise", "queue", "dispatch", "prefill", "decode"}
    assert {span.service for span in collector.spans} == {"shop"}
    assert collector.requests[0][1]["x-token"] == "t t"
    collector.close()


def test_a_collector_that_hangs_holds_up_nobody(start_cluster):
    collector = Collector()
    collector.status = None
    server = start_cluster(*OPTIONS, replicas=1, env=dict(
        QUICK, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.url, OTEL_BSP_MAX_QUEUE_SIZE="8"))
    for _ in range(12):
        assert Rest(server.port).post("/v1/chat/completions", QUESTION).status == 200
    assert server.metric("paceline_router_trace_spans_total", outcome="dropped") > 0
    assert server.stop() == 0  # though no answer ever comes
    collector.close()


def certificate(folder, name):
    files = (str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
         "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_tls(tmp_path, start_cluster):
    mine, other = certificate(tmp_path, "mine"), certificate(tmp_path, "other")
    collector = Collector(certificate=mine)
    environment = dict(QUICK, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.url)
    server = start_cluster(*OPTIONS, replicas=1,
                           env=dict(environment, OTEL_EXPORTER_OTLP_CERTIFICATE=mine[0]))
    trace_id, _, header = new_traceparent()
    Rest(server.port).post("/v1/chat/completions", QUESTION, headers={"traceparent": header})
    collector.wait_for(trace_id, *PARTS)
    assert server.stop() == 0
    server = start_cluster(*OPTIONS, replicas=1,
                           env=dict(environment, OTEL_EXPORTER_OTLP_CERTIFICATE=other[0]))
    trace_id, _, header = new_traceparent()
    Rest(server.port).post("/v1/chat/completions", QUESTION, headers={"traceparent": header})
    server.wait_for_line("traces cannot be exported: TLS: .*certificate verify failed")
    assert not collector.of(trace_id)
    server.kill()
    collector.close()


@pytest.mark.parametrize("option, env, name", [
    ("collector:4318", {}, "--otlp-traces-endpoint"),
    (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://c"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("http://c/v1/traces", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL")])
@pytest.mark.parametrize("command", [("router", "--workers", "127.0.0.1:1", "--port", 0,
                                      "--grpc-port", 0, "--operator-port", 0),
                                     ("worker", "--model", MODEL, "--port", 0)])
def test_wrong_options_are_named(command, option, env, name):
    result = run(*command, *(("--otlp-traces-endpoint", option) if option else ()), env=env)
    assert result.returncode == 2
    assert name in result.stderr.decode()
