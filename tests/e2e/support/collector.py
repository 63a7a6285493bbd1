"""A collector of traces that understands what the published OTLP schema says, and nothing else."""

import http.server
import ssl
import threading
import time

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from support.processes import eventually


class Span:
    def __init__(self, resource, span):
        self.resource = resource
        self.service = resource["service.name"]
        self.name = span.name
        self.kind = span.kind
        self.trace_id = span.trace_id.hex()
        self.id = span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.start = span.start_time_unix_nano / 1e9
        self.end = span.end_time_unix_nano / 1e9
        self.error = span.status.message if span.status.code == 2 else ""
        self.attributes = attributes(span.attributes)

    def __repr__(self):
        return f"<{self.service} {self.name} {self.attributes} {self.error}>"


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector:
    """On a free port; `certificate`: (certificate file, key file), for TLS."""

    def __init__(self, certificate=None):
        self.spans = []
        self.requests = []  # (path, headers)
        self.bodies = []
        self.status = 200  # None: no answer at all
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802, the library's name
                collector.receive(self)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}/v1/traces"
        self.is_closed = threading.Event()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def receive(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append((request.path, dict(request.headers)))
        self.bodies.append(body)
        if self.status is None:
            self.is_closed.wait()
            return
        if self.status == 200:
            message = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
            for group in message.resource_spans:
                assert group.resource.attributes
                resource = attributes(group.resource.attributes)
                for scope in group.scope_spans:
                    self.spans += [Span(resource, span) for span in scope.spans]
        answer = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
        request.send_response(self.status)
        request.send_header("Content-Type", "application/x-protobuf")
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def of(self, trace_id):
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def wait_for(self, trace_id, *names, timeout=120):
        """The trace's spans once it has these, by `service name` or `name`: as often as named."""
        def have():
            found = self.of(trace_id)
            labels = [s.name.split(" ")[0] for s in found]
            labels += [f"{s.service.removeprefix('paceline-')}:{s.name.split(' ')[0]}" for s in found]
            return found if all(labels.count(n) >= names.count(n) for n in names) else None
        try:
            return eventually(have, timeout, f"{names}")
        except AssertionError:
            raise AssertionError(f"no {names} in {self.of(trace_id)}") from None

    def close(self):
        self.is_closed.set()
        self.server.shutdown()
        self.server.server_close()


def new_traceparent(sampled=True):
    trace_id = f"{time.time_ns():032x}"
    return trace_id, "b7ad6b7169203331", f"00-{trace_id}-b7ad6b7169203331-0{int(sampled)}"
