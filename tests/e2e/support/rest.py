"""A plain HTTP client: what the official ones hide is what these tests look at."""

import http.client
import json

from support.cluster import CANARY


def loads_exact(text):
    """JSON with its fractions as printed, so that equal means equal to the last digit."""
    return json.loads(text, parse_float=str)


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers  # names in lower case
        self.body = body

    def json(self):
        return json.loads(self.body)

    def exact(self):
        return loads_exact(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:400]!r}>"


class Rest:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, port, key=None):
        self.port = port
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def send(self, method, path, body=None, headers=None, timeout=300):
        """`body`: bytes as they are, or anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, *self._message(body, headers))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()},
                          response.read())
        finally:
            connection.close()

    def _message(self, body, headers):
        all_headers = dict(self.headers)
        if body is not None:
            all_headers["Content-Type"] = "application/json"
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
        all_headers.update(headers or {})
        return body, {k: v for k, v in all_headers.items() if v is not None}

    def get(self, path, **more):
        return self.send("GET", path, **more)

    def post(self, path, body, **more):
        return self.send("POST", path, body, **more)

    def ok(self, path, body, **more):
        """The answer's JSON, fractions as printed. REQUIRES: success."""
        answer = self.post(path, body, **more)
        assert answer.status == 200, answer
        return answer.exact()

    def complete(self, **body):
        return self.ok("/v1/completions", body)

    def chat(self, **body):
        return self.ok("/v1/chat/completions", body)

    def tokenize(self, **body):
        return self.ok("/tokenize", body)["tokens"]

    def stream(self, path, body, timeout=300):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request("POST", path, *self._message(dict(body, stream=True), None))
        return EventStream(connection)


class EventStream:
    """The events of a streamed answer, as they come. Iterating yields their JSON."""

    def __init__(self, connection):
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status
        self.done = False  # [DONE] came
        self.error = None  # a terminal error event came

    def refusal(self):
        """The body of an answer that is no stream."""
        return json.loads(self._response.read())

    def __iter__(self):
        return self

    def __next__(self):
        """REQUIRES: a 200. Stops after [DONE], after an error event, and at the connection's end."""
        assert self.status == 200, self._response.read()
        while not self.done and self.error is None:
            line = self._response.readline()
            if not line:
                break
            if line == b"\n":
                continue
            assert line.startswith(b"data: "), line
            if line == b"data: [DONE]\n":
                self.done = True
                break
            event = loads_exact(line[len(b"data: "):])
            if "error" in event:
                self.error = event["error"]
                break
            return event
        rest = self._response.read()
        assert rest.strip() == b"", f"bytes after the end of the stream: {rest[:200]!r}"
        raise StopIteration

    def close(self):
        """Leaves in the middle."""
        self._response.close()
        self._connection.close()


def check_error(answer, status, param="any", code="any"):
    """An error as the contract wants it: shape, constant text, no user bytes. `param` and `code`:
    the expected value, or "any"."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    error = answer.json()
    assert set(error) == {"error"}, answer
    error = error["error"]
    assert set(error) == {"message", "type", "param", "code"}, answer
    assert isinstance(error["message"], str) and 0 < len(error["message"]) < 200, answer
    assert isinstance(error["type"], str) and error["type"], answer
    if param != "any":
        assert error["param"] == param, answer
    if code != "any":
        assert error["code"] == code, answer
    assert CANARY not in error["message"], answer
    for secret in ("0x", "/tmp", "/work", "/root", "std::", ".cc:", "exception", "nlohmann"):
        assert secret not in error["message"], answer
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1, answer.headers
    return error
