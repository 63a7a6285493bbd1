"""Bytes on sockets: HTTP/1 as no client would send it, and just enough HTTP/2 to do the same to gRPC."""

import re
import socket
import struct
import time


def connect(port, timeout=60):
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reset(connection):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send_all(connection, data):
    """Sends what the peer will take; whether it took everything."""
    try:
        connection.sendall(data)
        return True
    except (ConnectionError, socket.timeout):
        return False


def read_until_closed(connection):
    """Everything up to the end. Fails when the peer keeps the connection open."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass
    return received


class Response:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        import json
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


def parse_responses(data):
    """All the responses in `data`, which have a Content-Length."""
    responses = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.[01] (\d{3}) .*", lines[0])[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if status == 100:
            continue
        length = int(headers.get("content-length", 0))
        responses.append(Response(status, headers, data[:length]))
        data = data[length:]
    return responses


def exchange(port, data, timeout=60):
    """Sends the bytes and reads responses until the server closes the connection."""
    with connect(port, timeout) as connection:
        send_all(connection, data)
        return parse_responses(read_until_closed(connection))


def request(method="POST", path="/v1/completions", headers=(), body=b"", host="Host: x\r\n",
            close=True):
    """A request's bytes; well-formed unless the parts are not. `headers`: lines as bytes or text."""
    lines = [line if isinstance(line, bytes) else line.encode() for line in headers]
    head = f"{method} {path} HTTP/1.1\r\n{host}".encode()
    if close:
        head += b"Connection: close\r\n"
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


JSON_TYPE = "Content-Type: application/json"


def json_request(body, headers=(), path="/v1/completions", close=True):
    return request("POST", path, [JSON_TYPE, f"Content-Length: {len(body)}", *headers], body,
                   close=close)


# ---- HTTP/2

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def hpack_int(value, prefix_bits, first=0):
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    out = [first | limit]
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + [value])


def hpack(headers):
    """Literals without indexing."""
    out = b""
    for name, value in headers:
        for i, text in enumerate((name, value)):
            raw = text if isinstance(text, bytes) else text.encode()
            out += (b"\0" if i == 0 else b"") + hpack_int(len(raw), 7) + raw
    return out


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Http2:
    """A client connection that sends the frames that it is told to."""

    def __init__(self, port, timeout=60):
        self.connection = connect(port, timeout)
        self.connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        self._buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, *frames):
        """False when the peer has closed."""
        return send_all(self.connection, b"".join(frames))

    def frames(self):
        """The peer's frames (kind, flags, stream, payload) until it closes or is silent too long."""
        while True:
            while len(self._buffer) < 9 or len(self._buffer) < 9 + self._length():
                try:
                    data = self.connection.recv(65536)
                except (ConnectionError, socket.timeout):
                    return
                if not data:
                    return
                self._buffer += data
            length = self._length()
            head, payload = self._buffer[:9], self._buffer[9:9 + length]
            self._buffer = self._buffer[9 + length:]
            yield head[3], head[4], struct.unpack(">I", head[5:9])[0] & 0x7FFFFFFF, payload

    def _length(self):
        return int.from_bytes(self._buffer[:3], "big")

    def is_alive(self, timeout=10):
        """Whether the peer answers a ping."""
        if not self.send(frame(PING, 0, 0, b"whowhowh")):
            return False
        end = time.monotonic() + timeout
        for kind, flags, _, payload in self.frames():
            if kind == PING and flags & ACK and payload == b"whowhowh":
                return True
            if time.monotonic() > end:
                return False
        return False


def grpc_headers(path="/paceline.v1.Inference/Generate", more=()):
    return [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
            ("content-type", "application/grpc"), ("te", "trailers"), *more]


def grpc_message(body, compressed=0, length=None):
    return bytes([compressed]) + struct.pack(">I", len(body) if length is None else length) + body


def grpc_status(port, more_headers=(), message=grpc_message(b""),
                path="/paceline.v1.Inference/Generate", headers=None):
    """The grpc-status of one call, -1 for a reset of its stream, -2 for a connection that ended.
    On a new connection the header's name and value are plain bytes, so no HPACK decoder is needed."""
    with Http2(port) as http2:
        block = hpack(headers or grpc_headers(path, more_headers))
        http2.send(frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, message))
        for kind, _, stream, payload in http2.frames():
            if kind == HEADERS and stream == 1:
                found = re.search(rb"grpc-status.(\d{1,2})", payload, re.DOTALL)
                if found:
                    return int(found[1])
            if kind == RST_STREAM and stream == 1:
                return -1
            if kind == GOAWAY:
                return -2
    return -2
