"""Streamed answers that are read in threads of their own, over HTTP and gRPC, while a test does other
things to the server."""

import threading

import grpc

from support import answers
from support.rest import Rest


class Stream(threading.Thread):
    """One streamed completion. After join(): `tokens`, or `error`, the code of its terminal error."""

    def __init__(self, body):
        super().__init__(daemon=True)
        self.body = body
        self.error = None
        self.failure = None  # what no client should see: a broken connection, a second end …
        self._chunks = []

    @property
    def num_chunks(self):
        return len(self._chunks)

    @property
    def is_complete(self):
        return self.error is None and self.failure is None and not self.is_alive()

    def run(self):
        try:
            self._read()
        except Exception as failure:
            self.failure = repr(failure)


class HttpStream(Stream):
    def __init__(self, port, body):
        super().__init__(body)
        self._port = port

    def _read(self):
        stream = Rest(self._port).stream("/v1/completions", self.body)
        if stream.status != 200:
            self.error = stream.refusal()["error"]["code"]
            return
        for event in stream:
            self._chunks.append(event)
        if stream.error:
            self.error = stream.error["code"]
        else:
            assert stream.done, "no [DONE]"

    @property
    def tokens(self):
        return answers.from_events(self._chunks)


class GrpcStream(Stream):
    def __init__(self, address, pb, body):
        super().__init__(body)
        self._address = address
        self._pb = pb

    def _read(self):
        fields = dict(self.body)
        request = self._pb.GenerateRequest(text=fields.pop("prompt"))
        for name, value in fields.items():
            setattr(request.sampling, name, value)
        with grpc.insecure_channel(self._address) as channel:
            try:
                for chunk in self._pb.InferenceStub(channel).GenerateStream(request):
                    self._chunks.append(chunk)
            except grpc.RpcError as error:
                codes = [v for k, v in error.trailing_metadata() if k == "paceline-error-code"]
                assert codes, error
                self.error, = codes

    @property
    def tokens(self):
        return answers.from_chunks(self._chunks)


def start_streams(cluster, pb, bodies):
    """Every second one over gRPC."""
    streams = [HttpStream(cluster.port, body) if i % 2 == 0 else
               GrpcStream(cluster.grpc_address, pb, body) for i, body in enumerate(bodies)]
    for stream in streams:
        stream.start()
    return streams


def join_all(streams, timeout=300):
    for stream in streams:
        stream.join(timeout)
        assert not stream.is_alive(), f"no end after {stream.num_chunks} chunks"
        assert stream.failure is None, stream.failure
