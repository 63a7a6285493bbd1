"""The chart's containers, run here: each one's own command line and environment start the real binary
(ports and paths remapped), and its probes answer as they should through start, ready and drain."""

import base64
import functools
import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading

import pytest

import chart
from support.cluster import MODEL, Process, binary
from support.processes import eventually, free_port
from support.rest import Rest

ENVIRONMENT = {"PACELINE_KV_CACHE_MEMORY": "48MiB", "PACELINE_THREADS": "1"}


@functools.cache
def config_files():
    """The ConfigMap's files in a folder that stands for the mount; gone with the test run."""
    folder = tempfile.TemporaryDirectory(prefix="paceline-config-")
    for o in chart.kind("defaults", "ConfigMap"):
        if o["metadata"]["name"] == "test-paceline-config":
            for name, text in o["data"].items():
                with open(os.path.join(folder.name, name), "w", encoding="utf-8") as f:
                    f.write(text)
    return folder


def container(set_name, pod):
    """The container of the pod that a set's object makes."""
    return next(spec["containers"][0] for name, _, spec in chart.pods(chart.objects(set_name))
                if name == pod)


class Started:
    """A container's command line, with its ports and paths replaced."""

    def __init__(self, container_, replace=(), env=None, ports=None):
        self.container = container_
        self.ports = {p["name"]: free_port() for p in container_.get("ports", [])} | (ports or {})
        arguments = []
        for argument in container_["args"]:
            for port in container_.get("ports", []):
                argument = re.sub(rf"^(--[a-z-]*port=){port['containerPort']}$",
                                  rf"\g<1>{self.ports[port['name']]}", argument)
            argument = re.sub(r"^(--[a-z-]*host=).*", r"\g<1>127.0.0.1", argument)
            argument = re.sub(r"^--model=/models/.*", f"--model={MODEL}", argument)
            argument = argument.replace("/etc/paceline/config", config_files().name)
            for old, new in replace:
                argument = argument.replace(old, new)
            arguments.append(argument)
        given = {v["name"]: v["value"] for v in container_.get("env", []) if "value" in v}
        self.process = Process(*arguments, env={**ENVIRONMENT, **given, **(env or {})})

    def probe(self, name):
        """Whether the kubelet would count this probe as a success."""
        probe = self.container[name]
        if "tcpSocket" in probe:
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.ports[probe["tcpSocket"]["port"]])) == 0
        address = ("127.0.0.1", self.ports[probe["httpGet"]["port"]])
        if probe["httpGet"].get("scheme") == "HTTPS":  # which the kubelet does not verify
            connection = http.client.HTTPSConnection(
                *address, timeout=probe["timeoutSeconds"], context=ssl._create_unverified_context())
        else:
            connection = http.client.HTTPConnection(*address, timeout=probe["timeoutSeconds"])
        try:
            connection.request("GET", probe["httpGet"]["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def probes(self):
        return [self.probe(name) for name in ("startupProbe", "livenessProbe", "readinessProbe")]


@pytest.fixture(name="start")
def _start():
    started = []

    def start(*args, **more):
        started.append(Started(*args, **more))
        return started[-1]
    yield start
    for one in started:
        one.process.kill()


def test_every_option_is_one_that_the_binary_has():
    offered = {}
    for name in chart.value_sets():
        for where, _, spec in chart.pods(chart.objects(name)):
            for c in spec["containers"]:
                command, *options = c["args"]
                if command not in offered:
                    offered[command] = subprocess.run([binary(), command, "--help"],
                                                      capture_output=True, text=True).stdout
                for option in options:
                    if option.startswith("-"):
                        flag = option.split("=")[0].replace("--no-", "--")
                        assert re.search(rf"{flag}\b", offered[command]), (where, option)
    assert set(offered) == {"router", "worker", "chat"}


def health(url):
    return subprocess.run([binary(), "health", url], capture_output=True, timeout=120).returncode


def is_let_in(router, key):
    answer = Rest(router.ports["http"], key).get("/v1/models")
    assert answer.status in (200, 401)
    return answer.status == 200


def test_router_worker_and_test_pod_from_start_to_drain(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# clients\nalice:k-0123456789\n")
    worker_port = free_port()
    router = start(container("keys", "Deployment/test-paceline-router"), replace=[
        ("dns:///test-paceline-workers.llm.svc:50061", f"dns:///localhost:{worker_port}"),
        ("/etc/paceline/auth/keys", str(keys)), ("/etc/paceline/admin/keys", str(keys))])
    # Alive, but with no replica not ready.
    eventually(lambda: router.probes() == [True, True, False], 120, "the router is up")
    assert health(f"http://127.0.0.1:{router.ports['operator']}/health") == 0
    assert health(f"http://127.0.0.1:{router.ports['http']}/ready") == 1
    assert health(f"http://127.0.0.1:{worker_port}/health") == 1  # nobody there
    assert health("127.0.0.1") == 2

    worker = start(container("keys", "Deployment/test-paceline-smollm2-135m"),
                   ports={"plane": worker_port})
    eventually(lambda: worker.probes() == [True, True, True], 120, "the worker is ready")
    eventually(lambda: router.probes() == [True, True, True], 120, "the router is ready")

    test_pod = container("keys", "Pod/test-paceline-test")
    chat = [a.replace("http://test-paceline:8000", f"http://127.0.0.1:{router.ports['http']}")
            .replace("/etc/paceline/auth/keys", str(keys)) for a in test_pod["args"]]
    done = subprocess.run([binary(), *chat], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and len(done.stdout.strip()) > 0, done.stderr
    without_key = [a for a in chat if not a.startswith("--api-key-file")]
    assert subprocess.run([binary(), *without_key], capture_output=True, timeout=300).returncode == 2

    # Another key in the secret: in force without a restart, the old one no longer.
    keys.write_text("alice:k-9876543210\n")
    eventually(lambda: not is_let_in(router, "k-0123456789"), 120, "the file is read again")
    assert is_let_in(router, "k-9876543210")

    # What the kubelet does, after preStop: SIGTERM. The stream that runs ends as it should.
    stream = http.client.HTTPConnection("127.0.0.1", router.ports["http"], timeout=300)
    stream.request("POST", "/v1/completions", json.dumps(
        {"model": "smollm2-135m", "prompt": "Once", "max_tokens": 120, "stream": True,
         "ignore_eos": True}), {"Authorization": "Bearer k-9876543210", "Content-Type": "application/json"})
    response = stream.getresponse()
    assert response.status == 200
    response.readline()
    for one in (worker, router):
        one.process.signal(signal.SIGTERM)
        eventually(lambda: not one.probe("readinessProbe"), 120, "it is not ready")
    assert response.read().endswith(b"data: [DONE]\n\n"), worker.process.log + router.process.log
    assert router.process.wait(120) == 0
    assert worker.process.wait(120) == 0


def secret_files(set_name, folder):
    """What the chart's own Secrets become where they are mounted, by mount path."""
    mounts = {"test-paceline-tls": "tls", "test-paceline-worker-tls": "worker-tls",
              "test-paceline-worker-token": "worker-token", "test-paceline-api-keys": "auth"}
    for secret in chart.kind(set_name, "Secret"):
        path = folder / mounts[secret["metadata"]["name"]]
        path.mkdir()
        for name, value in secret["data"].items():
            (path / name).write_bytes(base64.b64decode(value))
    return [(f"/etc/paceline/{name}/", f"{folder}/{name}/") for name in mounts.values()]


def test_everything_encrypted(start, tmp_path):
    """TLS for clients, mutual TLS and a token on the worker plane, with what the chart generates."""
    files = secret_files("encrypted", tmp_path)
    worker_port = free_port()
    worker = start(container("encrypted", "Deployment/test-paceline-smollm2-135m"), replace=files,
                   ports={"plane": worker_port})
    router = start(container("encrypted", "Deployment/test-paceline-router"), replace=[
        ("dns:///test-paceline-workers.llm.svc:50061", f"127.0.0.1:{worker_port}"), *files])
    for one in (worker, router):
        eventually(lambda: one.probes() == [True, True, True], 120, "it is ready")
    chat = [a.replace("https://test-paceline.llm.svc:8000", f"https://localhost:{router.ports['http']}")
            for a in container("encrypted", "Pod/test-paceline-test")["args"]]
    for old, new in files:
        chat = [a.replace(old, new) for a in chat]
    done = subprocess.run([binary(), *chat], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    # What the PodMonitors ask for: the names and the authority that they give.
    for one, name in ((router, "test-paceline.llm.svc"), (worker, "test-paceline-workers.llm.svc")):
        folder = tmp_path / ("tls" if one is router else "worker-tls")
        assert subprocess.run([binary(), "health", f"https://127.0.0.1:{one.ports['operator']}/health",
                               "--tls-ca-file", folder / "ca.crt", "--tls-server-name", name],
                              capture_output=True, timeout=120).returncode == 0
    # Without token and certificate there is no way in.
    stranger = start(container("defaults", "Deployment/test-paceline-router"), replace=[
        ("dns:///test-paceline-workers.llm.svc:50061", f"127.0.0.1:{worker_port}")])
    eventually(lambda: stranger.probes() == [True, True, False], 120, "up, and with no replica")


def test_a_group_of_two_nodes(start):
    """Leader and worker of a LeaderWorkerSet, with the environment that its controller gives."""
    name = "LeaderWorkerSet/test-paceline-big"
    master = free_port()
    nodes = []
    for index, part in enumerate(("leaderTemplate", "workerTemplate")):
        nodes.append(start(
            container("autoscaling_groups", f"{name}/{part}"),
            replace=[("--master-port=29500", f"--master-port={master}")]
            + ([("--operator-port=8002", "--operator-port=0"), ("--port=50061", "--port=0")] if index else []),
            env={"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(index),
                 "LWS_LEADER_ADDRESS": "127.0.0.1"}))
    leader, other = nodes
    eventually(lambda: leader.probes() == [True, True, True], 120, "the group is ready")
    assert not other.container.get("livenessProbe")
    assert other.process.popen.poll() is None
    for node in (other, leader):
        node.process.signal(signal.SIGTERM)
    for node in nodes:
        assert node.process.wait(120) == 0


# ---- the download --------------------------------------------------------------------------------

CONTENT = os.urandom(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Files(http.server.BaseHTTPRequestHandler):
    seen = []

    def do_GET(self):
        type(self).seen.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if self.path != "/m.gguf":
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range"):
            start = int(re.match(r"bytes=(\d+)-", self.headers["Range"])[1])
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *args):
        pass


@pytest.fixture(name="download")
def _download(tmp_path):
    """Runs the init container's command with its own environment; the folder stands for /models."""
    Files.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    spec = next(spec for name, _, spec in chart.pods(chart.objects("url_with_digest"))
                if name == "Deployment/test-paceline-chat")
    init = spec["initContainers"][0]
    token = tmp_path / "token"
    token.write_text("hub-secret")

    def run(path="/m.gguf", **changed):
        env = {v["name"]: v["value"] for v in init["env"]}
        assert env["FILE"] == "/models/chat.gguf" and env["TOKEN_FILE"] == "/etc/paceline/token/token"
        env.update(URL=f"http://127.0.0.1:{server.server_address[1]}{path}", SHA256=SHA256,
                   FILE=str(tmp_path / "chat.gguf"), TOKEN_FILE=str(token), PATH=os.environ["PATH"])
        env.update(changed)
        return subprocess.run([*init["command"], *init["args"]], env=env, capture_output=True,
                              text=True, timeout=300)
    yield run, tmp_path / "chat.gguf"
    server.shutdown()


def test_a_download_is_whole_checked_and_done_once(download):
    run, file = download
    assert run().returncode == 0
    assert file.read_bytes() == CONTENT
    assert Files.seen[0][2] == "Bearer hub-secret"
    assert run().returncode == 0
    assert len(Files.seen) == 1


def test_a_download_goes_on_where_it_was_stopped(download):
    run, file = download
    file.with_name("chat.gguf.partial").write_bytes(CONTENT[:70_000])
    assert run().returncode == 0
    assert file.read_bytes() == CONTENT
    assert Files.seen == [("/m.gguf", "bytes=70000-", "Bearer hub-secret")]


def test_a_wrong_or_missing_file_never_appears(download):
    run, file = download
    for done in (run(SHA256="0" * 64), run(path="/other.gguf")):
        assert done.returncode != 0
        assert not file.exists() and not file.with_name("chat.gguf.partial").exists()
        assert "hub-secret" not in done.stdout + done.stderr


def test_a_download_without_digest_and_token(download):
    run, file = download
    assert run(SHA256="", TOKEN_FILE="").returncode == 0
    assert file.read_bytes() == CONTENT and Files.seen[0][2] is None
