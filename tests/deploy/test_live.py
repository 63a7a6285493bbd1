"""Rules and dashboards with a real Prometheus that scrapes a real cluster under load: two replicas,
more requests than they take, one replica killed, the other drained and then killed too."""

import collections
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import grpc
import pytest
import yaml

import chart
import render_dashboard
import rules
from support.collector import Collector
from support.cluster import MODEL, MODEL_NAME, ROOT, Process
from support.processes import eventually
from support.rest import Rest

# Queries that give no data here, and why.
EXPECTED_EMPTY = {
    "cluster / Slow readers / timeseries A": "no client leaves 256 KiB unread here",
    "cluster / Slow readers / timeseries B": "no client leaves 256 KiB unread here",
    "cluster / Slow readers / timeseries C": "a result that comes late is a matter of luck",
}
# Alerts whose metrics appear only with an event that does not happen here.
NOT_SEEN = {
    "PacelineSlowReaders": {"paceline_router_slow_reader_cancels_total"},
    # No TLS here; tests/e2e/test_security.py sees them.
    "PacelineCertificateExpiring": {"paceline_router_certificate_expiry_timestamp_seconds",
                                    "paceline_worker_certificate_expiry_timestamp_seconds"},
}
# With `for` left out, because minutes are too long for a test.
MUST_FIRE = {"PacelineNoReadyReplica", "PacelineReplicaLost", "PacelineRejects", "PacelineTargetDown",
             "PacelineSlowDrain", "PacelineErrorBudgetBurnFast", "PacelineErrorBudgetBurnSlow",
             "PacelineVersionSkew"}
RENDER = os.environ.get("PACELINE_RENDER")  # a folder for pages to look at; none are written without
MUST_NOT_FIRE = {"PacelineReplicaStalled", "PacelineSlowReaders", "PacelineReplicaFlapping",
                 "PacelineRanksRestarting", "PacelineTracesLost"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(port, operator_port, token, *more):
    return Process("worker", "--model", MODEL, "--port", port, "--operator-port", operator_port,
                   "--worker-token-file", token,
                   "--threads", 1, "--max-num-seqs", 4, "--max-model-len", 256,
                   "--kv-cache-memory", "7MiB", "--replicas-on-host", 2, *more)


def scrape(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def names_in(text):
    """Metric names of an exposition; series names of histograms included."""
    return {re.match(r"[^{ ]+", line)[0] for line in text.splitlines() if line and line[0] != "#"}


def types_in(text):
    """Metric names of an exposition, a histogram's once."""
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def documented():
    """Names in the tables of docs/api.md, of router and worker together."""
    names, prefix = set(), None
    with open(os.path.join(ROOT, "docs", "api.md"), encoding="utf-8") as f:
        for line in f:
            head = re.match(r"\| name `([\w:]+)…`", line)
            if head or not line.startswith("|"):
                prefix = head[1] if head else None
            elif prefix and not line.startswith("|---"):
                names |= {prefix + name for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    return names


class Prometheus:
    def __init__(self, folder, jobs):
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [
                    {"targets": [f"127.0.0.1:{port}"], "labels": {"version": version, "namespace": chart.NAMESPACE}}
                    for port, version in targets]}
                for job, targets in jobs.items()]}
        groups = rules.groups()
        for group in groups:
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "prometheus",
             f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"],
            start_new_session=True)

    def get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def is_ready(self):
        try:
            return self.get("status/config") is not None
        except OSError:
            return False

    def now(self, query):
        return self.get("query", query=query)["result"]

    def values(self, query, start, end):
        """All values over the time, but NaN; urllib's error where Prometheus refuses the query."""
        found = self.get("query_range", query=query, start=start, end=end, step="1s")["result"]
        return [value for series in found for _, value in series["values"] if value != "NaN"]

    def stop(self):
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(20)


class Load:
    """Threads that ask again and again, whatever the answer."""

    def __init__(self, port, threads):
        self.port = port
        self.is_over = threading.Event()
        self.statuses = []
        self.threads = [threading.Thread(target=self._ask, args=(i,), daemon=True)
                        for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number):
        body = {"max_tokens": 80, "temperature": 0, "ignore_eos": True, "stream": number % 2 == 0}
        while not self.is_over.is_set():
            # No two alike: one that runs on two replicas which are lost counts as poison.
            body["prompt"] = f"Once upon a time in a small town {time.monotonic_ns()} "
            try:
                self.statuses.append(Rest(self.port).send("POST", "/v1/completions", body).status)
            except (OSError, http.client.HTTPException):
                self.statuses.append(0)
            self.is_over.wait(0.2)

    def wait_for(self, statuses):
        """Until there are so many more answers of each status."""
        before = collections.Counter(self.statuses)
        try:
            eventually(lambda: collections.Counter(self.statuses) - before
                       >= collections.Counter(statuses), 60, "answers")
        except AssertionError:
            raise AssertionError(f"{before} then {collections.Counter(self.statuses)}") from None

    def stop(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(60)


def drain(folder, port, replica, undo):
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}/proto",
                    f"--python_out={folder}", f"--grpc_python_out={folder}",
                    "paceline/v1/admin.proto"], check=True)
    sys.path.insert(0, str(folder))
    from paceline.v1 import admin_pb2, admin_pb2_grpc
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        admin_pb2_grpc.AdminStub(channel).DrainReplica(
            admin_pb2.DrainReplicaRequest(id=replica, undo=undo), timeout=10)


def render(prometheus, folder, start, end):
    """The dashboards as pages, for people to look at."""
    source = render_dashboard.Source(f"http://127.0.0.1:{prometheus.port}", start, end)
    for name, board in rules.dashboards().items():
        with open(os.path.join(folder, f"{name}.html"), "w", encoding="utf-8") as f:
            f.write(render_dashboard.page(board, source))


@pytest.fixture(name="seen", scope="module")
def _seen(tmp_path_factory):
    """What was exported, what Prometheus has of it, and from when to when."""
    folder = tmp_path_factory.mktemp("prometheus")
    stubs = tmp_path_factory.mktemp("stubs")
    ports = {name: free_port() for name in ("a", "a_op", "b", "b_op", "http", "op", "admin")}
    started, closing = [], []
    try:
        collector = Collector()
        closing.append(collector.close)
        token = folder / "token"
        token.write_text("a-token\n")
        workers = {name: worker(ports[name], ports[f"{name}_op"], token,
                                "--otlp-traces-endpoint", collector.url)
                   for name in "ab"}
        started += workers.values()
        router = Process("router", "--workers", f"127.0.0.1:{ports['a']},127.0.0.1:{ports['b']}",
                         "--port", ports["http"], "--grpc-port", 0, "--operator-port", ports["op"],
                         "--admin-port", ports["admin"], "--max-queued-requests", 4,
                         "--otlp-traces-endpoint", collector.url, "--worker-token-file", token)
        started.append(router)
        prometheus = Prometheus(folder, {
            "paceline-router": [(ports["op"], "0.1.0")],
            "paceline-worker": [(ports["a_op"], "0.1.0"), (ports["b_op"], "0.0.9")]})
        started.append(prometheus)
        eventually(prometheus.is_ready, 60, "Prometheus answers")
        for process in workers.values():
            process.wait_for_line("worker plane on")
        state = 'paceline_router_replica_state{state="%s"} == 1'
        eventually(lambda: len(prometheus.now(state % "ready")) == 2, 60, "both replicas are ready")
        start = time.time()

        load = Load(ports["http"], threads=24)
        rest = Rest(ports["http"])
        assert rest.send("POST", "/v1/completions", {"prompt": "a", "tpyo": 1}).status == 400
        assert rest.get("/nothing").status == 404
        load.wait_for({200: 8, 429: 40})
        pages = [scrape(ports["op"]), scrape(ports["a_op"])]
        eventually(lambda: prometheus.now('paceline_worker_sequences{state="running"} > 1'), 20,
                   "sequences run")
        if RENDER:
            with open(os.path.join(RENDER, "status.html"), "w", encoding="utf-8") as f:
                f.write(scrape(ports["op"], "/"))
        workers["a"].popen.kill()
        eventually(lambda: prometheus.now("paceline_router_failovers_total > 0"), 30,
                   "answers have moved")
        pages.append(scrape(ports["op"]))

        drain(stubs, ports["admin"], f"127.0.0.1:{ports['b']}", undo=False)
        eventually(lambda: prometheus.now('ALERTS{alertname="PacelineSlowDrain"}'), 30,
                   "the drain is seen while sequences run")
        drain(stubs, ports["admin"], f"127.0.0.1:{ports['b']}", undo=True)
        workers["b"].popen.kill()
        load.wait_for({503: 8})
        eventually(lambda: prometheus.now('ALERTS{alertname="PacelineTargetDown"}'), 30, "workers are gone")
        load.stop()
        end = time.time()
        if RENDER:
            render(prometheus, RENDER, start, end)
        yield {"exported": set().union(*map(names_in, pages)), "types": set().union(*map(types_in, pages)),
               "prometheus": prometheus, "start": start, "end": end}
        assert router.stop() == 0
    finally:
        for close in closing:
            close()
        for process in started:
            (process.stop if isinstance(process, Prometheus) else process.kill)()


def test_every_metric_in_a_query_is_one_that_the_binary_exports(seen):
    queries = dict(rules.panels())
    queries |= {name: rule["expr"] for name, rule in {**rules.alerts(), **rules.recorded()}.items()}
    for values in ("autoscaling",):
        for o in chart.kind(values, "ScaledObject"):
            queries |= {f"KEDA {i}": t["metadata"]["query"] for i, t in enumerate(o["spec"]["triggers"])}
    known = seen["exported"] | set(rules.recorded()) | {"up"}
    excused = set().union(*NOT_SEEN.values()) | {
        "paceline_router_stream_pauses_total", "paceline_router_late_results_total"}
    missing = {(where, name) for where, query in queries.items()
               for name in rules.metric_names(query) - known - excused}
    assert not missing


def test_the_manual_has_every_metric_and_no_other(seen):
    rare = {f"paceline_router_{name}_total" for name in ("slow_reader_cancels", "stream_pauses", "late_results")}
    rare |= {f"paceline_{process}_certificate_expiry_timestamp_seconds" for process in ("router", "worker")}
    rare |= {"paceline_worker_gpu_memory_bytes", "paceline_worker_gpu_utilization"}  # no TLS, no GPU here
    assert rare <= documented()
    assert seen["types"] | rare == documented()


def test_every_panel_shows_data(seen):
    empty = set()
    for where, query in rules.panels():
        if not seen["prometheus"].values(rules.filled(query), seen["start"], seen["end"]):
            empty.add(where)
    assert empty <= set(EXPECTED_EMPTY), empty - set(EXPECTED_EMPTY)


def test_every_alert_can_be_evaluated_and_its_metrics_are_there(seen):
    for name, rule in rules.alerts().items():
        seen["prometheus"].values(rule["expr"], seen["start"], seen["end"])  # raises when refused
        for metric in rules.metric_names(rule["expr"]) - NOT_SEEN.get(name, set()):
            assert seen["prometheus"].values(metric, seen["start"], seen["end"]), (name, metric)


def test_alerts_fired_that_had_to_and_no_others_of_note(seen):
    fired = {series["metric"]["alertname"] for series in seen["prometheus"].get(
        "query_range", query='ALERTS{alertstate="firing"}', start=seen["start"], end=seen["end"],
        step="1s")["result"]}
    assert MUST_FIRE <= fired, MUST_FIRE - fired
    assert not fired & MUST_NOT_FIRE


def test_annotations_read_well(seen):
    texts = [text for alert in seen["prometheus"].get("alerts")["alerts"]
             for text in alert["annotations"].values()]
    assert texts
    for text in texts:
        assert "error expanding" not in text and "{{" not in text, text
        assert "<no value>" not in text, text
    assert any(MODEL_NAME in text for text in texts)


def test_autoscaling_queries_have_one_value(seen):
    queries = [trigger["metadata"]["query"].replace('model_name="chat"', f'model_name="{MODEL_NAME}"')
               for trigger in chart.kind("autoscaling", "ScaledObject")[0]["spec"]["triggers"]]
    assert len(queries) == 3
    for query in queries:
        assert len(seen["prometheus"].now(query)) == 1, query
        values = seen["prometheus"].values(query, seen["start"], seen["end"])
        assert max(float(value) for value in values) > 0, query


def test_recording_rules_have_values(seen):
    for name in rules.recorded():
        assert seen["prometheus"].values(name, seen["start"], seen["end"]), name
