"""TLS for clients and on the worker plane, tokens, and what is read again while it serves: certificates, tokens,
keys and the configuration change under load, and no request fails."""

import http.client
import json
import os
import socket
import ssl
import subprocess

import grpc
import pytest

from support.certificates import Authority
from support.cluster import Router, Worker, run
from support.load import Load
from support.processes import eventually
from support.rest import Rest

# A long lease: on a machine that is busy with other tests nobody may count as silent here.
SMALL = ("--max-model-len", 512, "--kv-cache-memory", "24MiB", "--threads", 1, "--lease-ms", 15_000)
LONG = {"prompt": "Count: 1, 2, 3", "max_tokens": 300, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(str(tmp_path_factory.mktemp("authority")), "paceline-test")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(str(tmp_path_factory.mktemp("stranger")), "stranger")


@pytest.fixture(scope="module")
def worker():
    process = Worker(*SMALL)
    process.worker_port
    yield process
    process.kill()


@pytest.fixture
def start(request):
    """A function that starts a process which is gone after the test."""
    def make(kind, *args, **more):
        process = kind(*args, **more)
        request.addfinalizer(process.kill)
        return process
    return make


class Mount:
    """Files as the kubelet mounts a Secret or ConfigMap: links to a folder that is swapped as a whole."""

    def __init__(self, folder, files):
        self.folder = str(folder)
        self._version = 0
        self.swap(files)
        for name in files:
            os.symlink(os.path.join("..data", name), self.path(name))

    def path(self, name):
        return os.path.join(self.folder, name)

    def swap(self, files):
        self._version += 1
        version = f"..v{self._version}"
        os.mkdir(self.path(version))
        for name, content in files.items():
            with open(self.path(os.path.join(version, name)), "w") as f:
                f.write(content)
        link = self.path("..data_tmp")
        os.symlink(version, link)
        os.replace(link, self.path("..data"))


def pair(authority, name, days=1):
    certificate, key = authority.sign(name, days)
    with open(certificate) as c, open(key) as k:
        return {"tls.crt": c.read(), "tls.key": k.read()}


def tls_options(mount):
    return ("--tls-cert-file", mount.path("tls.crt"), "--tls-key-file", mount.path("tls.key"))


def trusting(authority):
    return ssl.create_default_context(cafile=authority.path)


def shown(port):
    """The certificate that a new connection to `port` is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 60) as raw:
        with context.wrap_socket(raw) as secure:
            return secure.getpeercert(binary_form=True)


def der(pem):
    return ssl.PEM_cert_to_DER_cert(pem)


def wait_ready(port, tls=None):
    def look():
        try:
            with Load(port, tls, threads=1) as load:
                eventually(lambda: load.answered or load.failures, 120, "an answer")
            return load.answered
        except OSError:
            return False
    eventually(look, 120, "answers")


def chat(url, *options):
    return run("chat", url, "-m", "Hello!", "--max-tokens", 4, *options)


class TestClients:
    @pytest.fixture(scope="class")
    def mount(self, tmp_path_factory, authority):
        return Mount(tmp_path_factory.mktemp("tls"), pair(authority, "server"))

    @pytest.fixture(scope="class")
    def router(self, worker, mount, authority):
        router = Router([worker.worker_port], *tls_options(mount), "--operator-tls")
        wait_ready(router.port, trusting(authority))
        yield router
        assert router.stop() == 0

    def test_own_clients(self, router, authority):
        trust = ("--tls-ca-file", authority.path)
        for url in (f"https://127.0.0.1:{router.port}", f"grpcs://127.0.0.1:{router.grpc_port}",
                    f"https://localhost:{router.port}/v1"):
            answer = chat(url, *trust)
            assert answer.returncode == 0 and answer.stdout.strip(), answer
        for port in (router.port, router.operator_port):
            assert run("health", f"https://127.0.0.1:{port}/health", *trust).returncode == 0
        assert run("health", f"https://127.0.0.1:{router.port}/health", *trust,
                   "--tls-server-name", "server").returncode == 0

    def test_others(self, router, authority, pb):
        with open(authority.path, "rb") as f:
            credentials = grpc.ssl_channel_credentials(f.read())
        with grpc.secure_channel(f"127.0.0.1:{router.grpc_port}", credentials) as channel:
            assert pb.InferenceStub(channel).ListModels(pb.ListModelsRequest()).models
        answer = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{router.port}", "-tls1_1",
             "-cipher", "DEFAULT:@SECLEVEL=0"], input=b"", capture_output=True)
        assert answer.returncode != 0, "TLS 1.1 was accepted"

    @pytest.mark.parametrize("url, options, message", [
        ("https://127.0.0.1:{http}/health", ["--tls-ca-file", "{stranger}"],
         "certificate verify failed (unable to get local issuer certificate)"),
        ("https://127.0.0.1:{http}/health", [], "certificate verify failed"),
        ("https://127.0.0.1:{http}/health",
         ["--tls-ca-file", "{ca}", "--tls-server-name", "other"], "it bears another name"),
        ("http://127.0.0.1:{http}/health", [], "status 400"),
    ])
    def test_health_says_why_not(self, router, authority, stranger, url, options, message):
        names = {"http": router.port, "ca": authority.path, "stranger": stranger.path}
        answer = run("health", url.format(**names), *(o.format(**names) for o in options))
        assert answer.returncode == 1
        assert message in answer.stderr.decode()

    def test_chat_says_why_not(self, router, stranger):
        wrong = ("--tls-ca-file", stranger.path)
        answer = chat(f"https://127.0.0.1:{router.port}", *wrong)
        assert answer.returncode == 1 and b"certificate verify failed" in answer.stderr
        answer = chat(f"grpcs://127.0.0.1:{router.grpc_port}", *wrong)
        assert answer.returncode == 1 and answer.stderr
        answer = chat(f"http://127.0.0.1:{router.port}")
        assert answer.returncode != 0 and b"This port speaks TLS: use https://" in answer.stderr
        answer = chat(f"http://127.0.0.1:{router.port}", *wrong)
        assert answer.returncode == 2 and b"must start with https://" in answer.stderr

    def test_the_operator_port_has_tls_too(self, router):
        answer = Rest(router.operator_port).get("/metrics")
        assert answer.status == 400 and answer.json()["error"]["code"] == "tls_required"

    def test_a_silent_client_is_dropped(self, router):
        with socket.create_connection(("127.0.0.1", router.port), 120) as raw:
            raw.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
            raw.settimeout(120)
            assert raw.recv(1) == b"", "after 10 s"

    def test_tls_to_a_plain_port(self, worker, start, authority):
        router = start(Router, [worker.worker_port])
        answer = run("health", f"https://127.0.0.1:{router.port}/health", "--tls-ca-file", authority.path)
        assert answer.returncode == 1
        assert b"the port speaks no TLS" in answer.stderr

    def test_clients_must_show_a_certificate(self, worker, start, mount, authority, stranger):
        router = start(Router, [worker.worker_port], *tls_options(mount), "--operator-tls",
                       "--tls-ca-file", authority.path)
        trust = ("--tls-ca-file", authority.path)

        def identity(of):
            certificate, key = of.sign("client")
            return ("--tls-cert-file", certificate, "--tls-key-file", key)

        def ask(*options):
            http = run("health", f"https://127.0.0.1:{router.port}/ready", *trust, *options)
            rpc = chat(f"grpcs://127.0.0.1:{router.grpc_port}", *trust, *options)
            return http.returncode, rpc.returncode

        own = identity(authority)
        eventually(lambda: ask(*own) == (0, 0), 120, router.log)
        assert ask() == (1, 1)
        assert ask(*identity(stranger)) == (1, 1)
        # Probes and Prometheus have none.
        for path in ("/health", "/ready"):
            assert run("health", f"https://127.0.0.1:{router.operator_port}{path}", *trust).returncode == 0


class TestBadFiles:
    @pytest.mark.parametrize("change, message", [
        ({"tls.crt": None}, "--tls-cert-file: cannot read"),
        ({"tls.key": None}, "--tls-key-file: cannot read"),
        ({"tls.crt": ""}, "is empty"),
        ({"tls.crt": "nonsense"}, "holds no certificate in PEM"),
        ({"tls.key": "nonsense"}, "no private key"),
        ({"tls.key": "other"}, "the key is not that of the certificate")])
    def test_at_the_start(self, tmp_path, authority, change, message):
        files = pair(authority, "server")
        if change == {"tls.key": "other"}:
            change = {"tls.key": pair(authority, "other")["tls.key"]}
        for name, content in {**files, **change}.items():
            if content is not None:
                (tmp_path / name).write_text(content)
        answer = run("router", "--workers", "127.0.0.1:1", "--port", 0, "--grpc-port", 0,
                     "--operator-port", 0, "--tls-cert-file", tmp_path / "tls.crt",
                     "--tls-key-file", tmp_path / "tls.key")
        assert answer.returncode == 2
        assert message in answer.stderr.decode()

    def test_an_expired_one_is_a_warning_and_clients_say_so(self, worker, start, tmp_path, authority):
        mount = Mount(tmp_path, pair(authority, "old", days=-1))
        router = start(Router, [worker.worker_port], *tls_options(mount))
        router.wait_for_line("the certificate has expired at")
        answer = run("health", f"https://127.0.0.1:{router.port}/health", "--tls-ca-file", authority.path)
        assert answer.returncode == 1 and b"certificate has expired" in answer.stderr


class TestRotation:
    def test_certificates_of_clients(self, worker, start, tmp_path, authority):
        pairs = [pair(authority, f"server-{i}") for i in range(3)]
        mount = Mount(tmp_path, pairs[0])
        router = start(Router, [worker.worker_port], *tls_options(mount))
        trust = trusting(authority)
        wait_ready(router.port, trust)
        with open(authority.path, "rb") as f:
            channel = grpc.secure_channel(f"127.0.0.1:{router.grpc_port}",
                                          grpc.ssl_channel_credentials(f.read()))
        with Load(router.port, trust) as load, channel:
            ready_future = grpc.channel_ready_future(channel)
            ready_future.result(120)
            for next_pair in pairs[1:]:
                mount.swap({**next_pair, "tls.key": pairs[0]["tls.key"]})
                refused = "the key is not that of the certificate; what was there before goes on"
                eventually(lambda: router.log.count(refused) >= pairs.index(next_pair), 120, router.log)
                assert shown(router.port) != der(next_pair["tls.crt"])
                mount.swap(next_pair)
                for port in (router.port, router.grpc_port):
                    eventually(lambda: shown(port) == der(next_pair["tls.crt"]), 120, "the new one")
            before = load.answered
            eventually(lambda: load.answered > before or load.failures, 120, "more answers")
            metrics = router.operator("/metrics")
        assert load.failures == []
        assert 'paceline_router_file_is_current{file="tls"} 1' in metrics
        assert 'paceline_router_certificate_expiry_timestamp_seconds{file="tls"}' in metrics
        assert "PRIVATE KEY" not in router.log

    def test_an_answer_outlives_the_certificate(self, worker, start, tmp_path, authority):
        mount = Mount(tmp_path, pair(authority, "before"))
        router = start(Router, [worker.worker_port], *tls_options(mount))
        trust = trusting(authority)
        wait_ready(router.port, trust)
        connection = http.client.HTTPSConnection("127.0.0.1", router.port, context=trust, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps({**LONG, "stream": True}),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        after = pair(authority, "after")
        mount.swap(after)
        eventually(lambda: shown(router.port) == der(after["tls.crt"]), 120, "the new one")
        assert response.read().endswith(b"data: [DONE]\n\n")


class TestWorkerPlane:
    def test_a_token_is_needed_and_rotates(self, start, tmp_path):
        """Old alone; old and new, of which routers show the first; new and old; new alone."""
        old, new = "0ld-" + "x" * 40, "new-" + "y" * 40
        mount = Mount(tmp_path, {"token": old + "\n"})
        token = ("--worker-token-file", mount.path("token"))
        workers = [start(Worker, *SMALL, *token) for _ in range(2)]
        ports = [worker.worker_port for worker in workers]
        router = start(Router, ports, *token)
        eventually(lambda: router.ready_replicas() == 2, 120, router.log)

        naked = start(Router, ports[:1])
        naked.wait_for_line("the router shows no token; give both the same --worker-token-file")
        workers[0].wait_for_line(r"a router at .* shows no token: refused")
        (tmp_path / "wrong").write_text("wrong\n")
        wrong = start(Router, ports[1:], "--worker-token-file", tmp_path / "wrong")
        wrong.wait_for_line("shows a token that is not this worker's")
        workers[1].wait_for_line(r"a router at .* shows a token that is not this worker's: refused")

        with Load(router.port) as load:
            for i, content in enumerate((f"{old}\n{new}\n", f"{new}\n{old}\n", f"{new}\n")):
                mount.swap({"token": content})
                for process in (router, *workers):
                    eventually(lambda: process.log.count("worker-token: changed, read again") > i, 120,
                               process.log)
            # Both attach anew, each while the other serves.
            for port in ports:
                again = start(Router, [port], *token)
                eventually(lambda: again.ready_replicas() == 1, 120, again.log)
        assert load.failures == [] and load.answered > 0, router.log
        late = start(Router, ports[:1], "--worker-token-file", tmp_path / "wrong")
        (tmp_path / "wrong").write_text(old + "\n")
        late.wait_for_line("worker-token: changed, read again")
        late.wait_for_line("shows a token that is not this worker's")
        for process in (*workers, router, naked, wrong, late):
            assert old not in process.log and new not in process.log
            with open(f"/proc/{process.pid}/cmdline") as f:
                assert old not in f.read()

    def test_a_damaged_token_file_changes_nothing(self, start, tmp_path):
        mount = Mount(tmp_path, {"token": "good\n"})
        worker = start(Worker, *SMALL, "--worker-token-file", mount.path("token"))
        worker.worker_port
        mount.swap({"token": "\n"})
        worker.wait_for_line("holds no token; what was there before goes on|holds no key; what was")
        router = start(Router, [worker.worker_port], "--worker-token-file", self._file(tmp_path, "good"))
        eventually(lambda: router.ready_replicas() == 1, 120, router.log)

    @staticmethod
    def _file(folder, text):
        path = folder / "one"
        path.write_text(text + "\n")
        return path

    def test_mutual_tls(self, start, tmp_path, authority, stranger):
        mount = Mount(tmp_path, pair(authority, "plane"))

        def options(files, trusted):
            return ("--worker-tls-cert-file", files.path("tls.crt"),
                    "--worker-tls-key-file", files.path("tls.key"), "--worker-tls-ca-file", trusted.path)

        worker = start(Worker, *SMALL, *options(mount, authority), "--operator-port", 0, "--operator-tls")
        port = worker.worker_port
        operator = int(worker.wait_for_line(r"metrics on https://[^:]+:(\d+)")[1])
        assert run("health", f"https://127.0.0.1:{operator}/ready",
                   "--tls-ca-file", authority.path).returncode == 0
        router = start(Router, [port], *options(mount, authority))
        eventually(lambda: router.ready_replicas() == 1, 120, router.log)
        by_name = start(Router, [port], *options(mount, authority), "--worker-tls-server-name", "plane")
        eventually(lambda: by_name.ready_replicas() == 1, 120, by_name.log)

        (tmp_path / "foreign").mkdir()
        foreign = Mount(tmp_path / "foreign", pair(stranger, "plane"))
        cut = "the worker has cut the connection: does it ask for TLS, or a certificate"
        for options_, here, there in (
                (options(foreign, authority), cut, "certificate verify failed"),
                (options(mount, stranger), "certificate verify failed", ""),
                (("--worker-tls-ca-file", authority.path), cut, "did not return a certificate"),
                ((*options(mount, authority), "--worker-tls-server-name", "other"),
                 "Peer name other is not in peer certificate", ""),
                ((), cut, "wrong version number")):
            refused = start(Router, [port], *options_)
            refused.wait_for_line(f"cannot attach to .*{here}")
            worker.wait_for_line(there)
            assert refused.ready_replicas() == 0
            refused.kill()

        with Load(router.port) as load:
            mount.swap(pair(authority, "plane"))
            worker.wait_for_line("worker-tls: changed, read again")
            router.wait_for_line("worker-tls: changed, read again")
            again = start(Router, [port], *options(mount, authority))
            eventually(lambda: again.ready_replicas() == 1, 120, again.log)
        assert load.failures == [] and load.answered > 0

    def test_tls_where_there_is_none(self, worker, start, authority):
        router = start(Router, [worker.worker_port], "--worker-tls-ca-file", authority.path)
        router.wait_for_line("cannot attach to .*andshake")

    @pytest.mark.parametrize("command, options, message", [
        ("router", ["--worker-tls-cert-file", "{crt}", "--worker-tls-key-file", "{key}"],
         "--worker-tls-cert-file: needs --worker-tls-ca-file"),
        ("router", ["--worker-tls-server-name", "x"], "needs --worker-tls-ca-file"),
        ("router", ["--operator-tls"], "--operator-tls: needs --tls-cert-file"),
        ("router", ["--tls-ca-file", "{ca}"], "--tls-ca-file: needs --tls-cert-file"),
        ("worker", ["--worker-tls-ca-file", "{ca}"], "needs --worker-tls-cert-file"),
        ("worker", ["--operator-tls"], "--operator-tls: needs --worker-tls-cert-file"),
        ("worker", ["--worker-token-file", "/nowhere"], "--worker-token-file: cannot read /nowhere")])
    def test_what_does_not_go_together(self, authority, command, options, message):
        certificate, key = authority.sign("server")
        names = {"ca": authority.path, "crt": certificate, "key": key}
        first = ["--workers", "127.0.0.1:1"] if command == "router" else ["--model", "x.gguf"]
        answer = run(command, *first, *(o.format(**names) for o in options))
        assert answer.returncode == 2
        assert message in answer.stderr.decode()
