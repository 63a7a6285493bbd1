"""Rules and dashboards with a real Prometheus that scrapes a real cluster: nothing is there at first, then one
replica, which stands still while requests wait; with a second one, of two ranks, come more requests than they take
and a file that cannot be used; a rank dies again and again, then its replica; the other is drained and killed too.

Nothing here rests on how fast the machine is: what happens is repeated until its alert fires."""

import collections
import concurrent.futures
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
from support.certificates import Authority
from support.collector import Collector
from support.cluster import MODEL, MODEL_NAME, ROOT, Process
from support.processes import children, eventually
from support.rest import Rest

# Queries that give no data here, and why.
EXPECTED_EMPTY = {
    "cluster / Slow readers / timeseries A": "contexts here are too short to leave 256 KiB unread",
    "cluster / Slow readers / timeseries B": "the same; tests/e2e/test_bad_http.py sees both",
    "replicas / GPU memory / timeseries A": "no GPU here",
    "replicas / GPU at work / timeseries A": "no GPU here",
    "replicas / GPUs exchanging / timeseries A": "no GPU here",
}
# For the same reasons.
NOT_EXPORTED = {"paceline_router_stream_pauses_total", "paceline_router_slow_reader_cancels_total",
                "paceline_worker_gpu_memory_bytes", "paceline_worker_gpu_utilization",
                "paceline_worker_rank_gpu_timed_seconds_total", "paceline_worker_rank_gpu_exchange_seconds_total"}
# Alerts that stay quiet here, and why. All others fire, with `for` left out: minutes are too long for a test.
QUIET = {
    "PacelineReplicaStalled": "a worker that hangs ends itself long before",
    "PacelineEngineStuck": "the same",
    "PacelineSlowReaders": "see above",
}
PATIENCE = 180  # seconds, for what takes a few on most machines
RENDER = os.environ.get("PACELINE_RENDER")  # a folder for pages to look at; none are written without


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def worker(port, operator_port, *more):
    return Process("worker", "--model", MODEL, "--port", port, "--operator-port", operator_port,
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

    def wait_for(self, query):
        return eventually(lambda: self.now(query), PATIENCE, query)

    def fires(self, name):
        return self.now(f'ALERTS{{alertname="Paceline{name}",alertstate="firing"}}')

    def wait_for_alerts(self, *names):
        for name in names:
            eventually(lambda: self.fires(name), PATIENCE, f"{name} fires")

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
                       >= collections.Counter(statuses), PATIENCE, "answers")
        except AssertionError:
            raise AssertionError(f"{before} then {collections.Counter(self.statuses)}") from None

    def stop(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(PATIENCE)


def leave_stream(port):
    """A client that goes away in the midst of a stream; what was on its way comes too late."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(
        {"prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True}),
        {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status == 200:
        answer.readline()
    connection.close()


class Admin:
    def __init__(self, folder, port):
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}/proto",
                        f"--python_out={folder}", f"--grpc_python_out={folder}",
                        "paceline/v1/admin.proto"], check=True)
        sys.path.insert(0, str(folder))
        self.port = port

    def drain(self, replica, undo=False):
        from paceline.v1 import admin_pb2, admin_pb2_grpc
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            admin_pb2_grpc.AdminStub(channel).DrainReplica(
                admin_pb2.DrainReplicaRequest(id=replica, undo=undo), timeout=10)


def render(prometheus, folder, start, end):
    """The dashboards as pages, for people to look at."""
    source = render_dashboard.Source(f"http://127.0.0.1:{prometheus.port}", start, end)
    for name, board in rules.dashboards().items():
        with open(os.path.join(folder, f"{name}.html"), "w", encoding="utf-8") as f:
            f.write(render_dashboard.page(board, source))


class Scenario:
    """What happens to the cluster, while Prometheus looks on."""

    def __init__(self, folder):
        self.folder = folder
        self.ports = {name: free_port() for name in ("a", "a_op", "b", "b_op", "http", "op", "admin")}
        self.token = folder / "token"
        self.token.write_text("a-token\n")
        self.admin = Admin(folder, self.ports["admin"])
        self.closing = []
        self.pages = []
        self.collector = Collector()
        self.closing.append(self.collector.close)
        authority = Authority(str(folder / "authority"), "paceline-test")
        certificate, key = authority.sign("worker")  # for a day: too short
        plane = ("--worker-token-file", self.token, "--otlp-traces-endpoint", self.collector.url,
                 "--worker-tls-cert-file", certificate, "--worker-tls-key-file", key)
        ports = self.ports
        # A long lease for the one that is waited for while it stands still.
        self.arguments = {
            "a": (worker, ports["a"], ports["a_op"], *plane, "-tp", 2),
            "b": (worker, ports["b"], ports["b_op"], *plane, "--lease-ms", 600_000),
            "router": (Process, "router", "--workers", f"127.0.0.1:{ports['a']},127.0.0.1:{ports['b']}", *plane,
                       "--worker-tls-ca-file", authority.path, "--port", ports["http"], "--grpc-port", 0,
                       "--operator-port", ports["op"], "--admin-port", ports["admin"],
                       "--max-queued-requests", 4)}
        self.processes = {}
        self.prometheus = Prometheus(folder, {
            "paceline-router": [(ports["op"], "0.1.0")],
            "paceline-worker": [(ports["a_op"], "0.1.0"), (ports["b_op"], "0.0.9")]})
        self.closing.append(self.prometheus.stop)

    def launch(self, name):
        make, *arguments = self.arguments[name]
        self.processes[name] = make(*arguments)
        self.closing.append(self.processes[name].kill)

    def replica(self, name):
        return f"127.0.0.1:{self.ports[name]}"

    def wait_for_ready(self, number):
        self.prometheus.wait_for(f'sum(paceline_router_replica_state{{state="ready"}}) == {number}')

    def scrape(self, *ports):
        self.pages += [scrape(self.ports[port]) for port in ports]

    def play(self):
        eventually(self.prometheus.is_ready, PATIENCE, "Prometheus answers")
        self.start = time.time()
        self.prometheus.wait_for_alerts("RouterMetricsMissing", "WorkerMetricsMissing", "TargetDown")
        self.launch("router")
        self.launch("b")
        self.wait_for_ready(1)
        self.stand_still()
        self.launch("a")
        self.wait_for_ready(2)
        self.load = Load(self.ports["http"], threads=24)
        self.closing.append(self.load.stop)
        rest = Rest(self.ports["http"])
        assert rest.send("POST", "/v1/completions", {"prompt": "a", "tpyo": 1}).status == 400
        assert rest.get("/nothing").status == 404
        self.load.wait_for({200: 8, 429: 40})
        self.prometheus.wait_for('paceline_worker_sequences{state="running"} > 1')
        if RENDER:
            with open(os.path.join(RENDER, "status.html"), "w", encoding="utf-8") as f:
                f.write(scrape(self.ports["op"], "/"))
        self.spoil_the_token()
        self.lose_a_rank()
        self.flap()
        self.leave_streams()
        self.scrape("op", "a_op", "b_op")
        self.prometheus.wait_for_alerts("KvCacheFull", "Rejects", "VersionSkew", "CertificateExpiring")
        self.processes["a"].popen.kill()
        self.prometheus.wait_for_alerts("ReplicaLost")
        self.drain()
        self.collector.close()
        self.prometheus.wait_for_alerts("TracesLost")
        self.processes["b"].popen.kill()
        self.load.wait_for({503: 8})
        self.prometheus.wait_for_alerts("NoReadyReplica", "ErrorBudgetBurnFast", "ErrorBudgetBurnSlow")
        self.load.stop()
        self.end = time.time()
        if RENDER:
            render(self.prometheus, RENDER, self.start, self.end)

    def stand_still(self):
        """One request is answered at once; all others wait for the only replica."""
        def ask():
            return Rest(self.ports["http"]).send(
                "POST", "/v1/completions",
                {"prompt": f"Once {time.monotonic_ns()}", "max_tokens": 20, "ignore_eos": True}).status
        eventually(lambda: ask() == 200, PATIENCE, "an answer")  # the router may still read the tokenizer
        self.prometheus.wait_for('vllm:time_to_first_token_seconds_count{engine!="0"} == 1')
        self.processes["b"].signal(signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask) for _ in range(8)]
            self.prometheus.wait_for_alerts("QueueAge")
            self.processes["b"].signal(signal.SIGCONT)
            assert [future.result() for future in asked] == [200] * 8
        self.prometheus.wait_for_alerts("TtftBudgetBurnFast", "TtftBudgetBurnSlow")

    def spoil_the_token(self):
        self.token.write_text("")
        self.prometheus.wait_for_alerts("FileNotUsed")
        self.token.write_text("a-token\n")

    def lose_a_rank(self):
        """Looks at the processes' own pages: a rank may be back before Prometheus saw it gone."""
        def page(port):
            try:
                return scrape(self.ports[port])
            except OSError:
                return ""

        def restarts():
            return sum(float(count) for count in re.findall(
                r"^paceline_worker_rank_restarts_total\S* (\S+)$", page("a_op"), re.MULTILINE))

        def are_ready():
            return len(re.findall(r'^paceline_router_replica_state\S*state="ready"} 1$', page("op"), re.MULTILINE)) == 2

        for number in range(20):
            os.kill(children(self.processes["a"].pid)[1], signal.SIGKILL)
            eventually(lambda: restarts() > number and are_ready(), PATIENCE, "the rank is back")
            if number >= 2 and self.prometheus.fires("RanksRestarting"):
                break
        self.prometheus.wait_for_alerts("RanksRestarting")

    def flap(self):
        """All processes of a replica stand still for longer than its lease, and its requests move."""
        pids = [self.processes["a"].pid, *children(self.processes["a"].pid)]
        for _ in range(20):
            self.prometheus.wait_for("count(paceline_router_replica_sequences > 0) >= 2")
            for number, ready in ((signal.SIGSTOP, 1), (signal.SIGCONT, 2)):
                for pid in pids:
                    os.kill(pid, number)
                self.wait_for_ready(ready)
            if self.prometheus.fires("ReplicaFlapping") and self.prometheus.fires("FailoversRising"):
                break
        self.prometheus.wait_for_alerts("ReplicaFlapping", "FailoversRising")

    def leave_streams(self):
        def comes_late():
            leave_stream(self.ports["http"])
            return "paceline_router_late_results_total" in scrape(self.ports["op"])
        eventually(comes_late, PATIENCE, "a result that is late")

    def drain(self):
        """Again, should all that runs have ended before Prometheus looked."""
        def is_seen():
            self.admin.drain(self.replica("b"))
            end = time.monotonic() + 5
            while time.monotonic() < end:
                if self.prometheus.fires("SlowDrain"):
                    return True
                time.sleep(0.2)
            self.admin.drain(self.replica("b"), undo=True)
            self.load.wait_for({200: 4})
            return False
        eventually(is_seen, PATIENCE, "the drain is seen while sequences run")
        self.admin.drain(self.replica("b"), undo=True)


@pytest.fixture(name="seen", scope="module")
def _seen(tmp_path_factory):
    """What was exported, what Prometheus has of it, and from when to when."""
    scenario = Scenario(tmp_path_factory.mktemp("prometheus"))
    try:
        scenario.play()
        yield {"exported": set().union(*map(names_in, scenario.pages)),
               "types": set().union(*map(types_in, scenario.pages)),
               "prometheus": scenario.prometheus, "start": scenario.start, "end": scenario.end}
        assert scenario.processes["router"].stop() == 0
    finally:
        for close in reversed(scenario.closing):
            close()


def test_every_metric_in_a_query_is_one_that_the_binary_exports(seen):
    queries = dict(rules.panels())
    queries |= {name: rule["expr"] for name, rule in {**rules.alerts(), **rules.recorded()}.items()}
    for values in ("autoscaling",):
        for o in chart.kind(values, "ScaledObject"):
            queries |= {f"KEDA {i}": t["metadata"]["query"] for i, t in enumerate(o["spec"]["triggers"])}
    known = seen["exported"] | set(rules.recorded()) | {"up"} | NOT_EXPORTED
    missing = {(where, name) for where, query in queries.items()
               for name in rules.metric_names(query) - known}
    assert not missing


def test_the_manual_has_every_metric_and_no_other(seen):
    assert seen["types"] | NOT_EXPORTED == documented()


def test_every_panel_shows_data(seen):
    empty = set()
    for where, query in rules.panels():
        if not seen["prometheus"].values(rules.filled(query), seen["start"], seen["end"]):
            empty.add(where)
    assert empty <= set(EXPECTED_EMPTY), empty - set(EXPECTED_EMPTY)


def test_every_alert_can_be_evaluated_and_its_metrics_are_there(seen):
    for name, rule in rules.alerts().items():
        seen["prometheus"].values(rule["expr"], seen["start"], seen["end"])  # raises when refused
        for metric in rules.metric_names(rule["expr"]) - NOT_EXPORTED:
            assert seen["prometheus"].values(metric, seen["start"], seen["end"]), (name, metric)


def test_all_alerts_fired_that_can_here_and_no_others(seen):
    # Not a query over a range: one that began to fire within its last step would be missing.
    fired = {series["metric"]["alertname"] for series in seen["prometheus"].get(
        "query", query='count_over_time(ALERTS{alertstate="firing"}[1h])', time=seen["end"])["result"]}
    assert fired == set(rules.alerts()) - set(QUIET)


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
