"""Workers behind a Kubernetes Service, run by test_kubernetes.py in a network and mount namespace of its own
with an API server of its own. Ends with an assertion, or with status 0."""

import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))

from dns_scenario import Clients, bring_up_loopback, worker  # noqa: E402
from support.cluster import Process, metric_sum  # noqa: E402
from support.processes import eventually  # noqa: E402
from support.rest import Rest  # noqa: E402

ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
PORT = 6443


class Api:
    """As much of the API server as lists and watches EndpointSlices of one namespace."""

    def __init__(self, certificate):
        self.token = ""
        self.forbidden = False
        self.gone = 0  # so many watches are told that they are too old
        self.lists = 0
        self.watches = []  # resourceVersion of each
        self.connections = []
        self.changed = threading.Condition()
        self.version = 100
        self.slices = {}  # name: addresses
        self.events = []  # (version, event)
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):  # noqa: N802, the library's name
                api.answer(self)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def slice(self, name):
        return {"metadata": {"name": name, "resourceVersion": str(self.version)}, "addressType": "IPv4",
                "ports": [{"name": "plane", "port": 50061}],
                "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in self.slices[name]]}

    def set(self, name, addresses):
        """Changes a slice; None: deletes it."""
        with self.changed:
            self.version += 1
            if addresses is None:
                gone = self.slice(name)
                del self.slices[name]
                self.events.append((self.version, {"type": "DELETED", "object": gone}))
            else:
                kind = "MODIFIED" if name in self.slices else "ADDED"
                self.slices[name] = addresses
                self.events.append((self.version, {"type": kind, "object": self.slice(name)}))
            self.changed.notify_all()

    def answer(self, request):
        url = urllib.parse.urlparse(request.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        assert url.path == "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices", url.path
        assert query["labelSelector"] == "kubernetes.io/service-name=llm-workers"
        if request.headers["Authorization"] != f"Bearer {self.token}":
            return self.send(request, 401, {"kind": "Status", "message": "Unauthorized", "code": 401})
        if self.forbidden:
            return self.send(request, 403, {"kind": "Status", "code": 403, "message": "User cannot list resource"})
        if "watch" in query:
            return self.watch(request, int(query["resourceVersion"]))
        with self.changed:
            self.lists += 1
            body = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": str(self.version)},
                    "items": [self.slice(name) for name in self.slices]}
        return self.send(request, 200, body)

    @staticmethod
    def send(request, status, body):
        data = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def watch(self, request, version):
        with self.changed:
            self.watches.append(version)
            self.connections.append(request.connection)
            is_gone = self.gone > 0
            self.gone -= is_gone
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()

        def event(body):
            line = json.dumps(body).encode() + b"\n"
            request.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            request.wfile.flush()
        try:
            if is_gone:
                event({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
                request.wfile.write(b"0\r\n\r\n")
                return
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: any(v > version for v, _ in self.events))
                    new = [(v, e) for v, e in self.events if v > version]
                for version, body in new:
                    event(body)
        except OSError:
            request.close_connection = True

    def break_watches(self):
        with self.changed:
            connections, self.connections = self.connections, []
        for connection in connections:
            try:
                connection.shutdown(2)
            except OSError:
                pass


def pod():
    """What a pod finds of its service account; the API server's certificate and key."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.makedirs(ACCOUNT)
    files = (f"{ACCOUNT}/ca.crt", "/run/api.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-out", files[0],
         "-keyout", files[1]], check=True, capture_output=True)
    with open(f"{ACCOUNT}/namespace", "w", encoding="utf-8") as f:
        f.write("models")
    return files


def set_token(api, token):
    api.token = token
    with open(f"{ACCOUNT}/token.new", "w", encoding="utf-8") as f:
        f.write(token)
    os.rename(f"{ACCOUNT}/token.new", f"{ACCOUNT}/token")


def main():
    bring_up_loopback()
    api = Api(pod())
    set_token(api, "first-token")
    first, second = worker("127.0.0.2"), worker("127.0.0.3")
    for process in (first, second):
        process.wait_for_line("worker plane on")
    api.slices["llm-workers-a"] = ["127.0.0.2"]
    api.forbidden = True
    router = Process("router", "--workers", "kubernetes:///llm-workers:50061", "--port", 8000,
                     env={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(PORT)})

    def ready():
        text = Rest(8002).get("/metrics").body.decode()
        return metric_sum(text, "paceline_router_replica_state", state="ready")

    router.wait_for_line("the Kubernetes API answers 403: the service account must be allowed to list and watch "
                         "endpointslices .* in namespace models: User cannot list resource")
    api.forbidden = False
    eventually(lambda: Rest(8000).get("/ready").status == 200 and ready() == 1, 120, "one serves")
    clients = Clients(8000, threads=4)
    eventually(lambda: clients.good > 4, 120, "answers come")

    start = time.monotonic()
    api.set("llm-workers-b", ["127.0.0.3"])
    eventually(lambda: ready() == 2, 120, "the one that joined is ready")
    print(f"joined after {time.monotonic() - start:.1f} s")

    watched, version = len(api.watches), api.version
    api.break_watches()
    eventually(lambda: len(api.watches) > watched, 120, "the watch is opened anew")
    assert api.watches[-1] == version, "where it was"
    assert api.lists == 1
    api.set("llm-workers-b", ["127.0.0.3", "127.0.0.9"])  # the last has no worker
    eventually(lambda: "has 3 ready worker" in router.log, 120, "it goes on from there")

    watched = len(api.watches)
    api.gone = 1
    api.break_watches()
    eventually(lambda: api.lists == 2 and len(api.watches) == watched + 2, 120,
               "a watch that is too old starts with a new list")
    assert ready() == 2

    watched = len(api.watches)
    set_token(api, "second-token")
    api.break_watches()
    eventually(lambda: len(api.watches) > watched, 120, "the new token is used")

    api.set("llm-workers-a", None)  # as Kubernetes does it: gone from the Service, and told to stop
    first.signal(signal.SIGTERM)
    assert first.wait(120) == 0
    eventually(lambda: ready() == 1, 120, "the one that left is forgotten")
    before = clients.good
    eventually(lambda: clients.good > before + 4, 120, "the other one answers")

    clients.stop()
    assert not clients.bad, f"{clients.bad[:3]}\n{router.log}"
    assert "first-token" not in router.log and "second-token" not in router.log
    assert router.stop() == 0
    assert second.stop() == 0
    print(f"{clients.good} answers, none failed")


if __name__ == "__main__":
    main()
