"""HTTP/1 that no proper client sends: rows are cases, classes are groups after which the server must be
what it was."""

import json
import os
import random
import socket
import threading
import time

import pytest

from support import wire
from support.cluster import CANARY
from support.processes import eventually, open_files, rss_bytes
from support.rest import Rest, check_error
from support.wire import JSON_TYPE, connect, exchange, json_request, request

BODY = b'{"prompt":"Hello","max_tokens":1}'
LENGTH = f"Content-Length: {len(BODY)}"
pytestmark = pytest.mark.usefixtures("unharmed")


def only(responses, status, code="any"):
    """Exactly one answer came, an error with this status, and then the connection was closed."""
    assert len(responses) == 1, responses
    check_error(responses[0], status, code=code)


class TestHead:
    def test_request_line_of_64_kib(self, cluster):
        only(exchange(cluster.port, request("GET", "/" + "a" * 65536)), 414)

    def test_head_just_over_16_kib(self, cluster):
        only(exchange(cluster.port, request(headers=["X-Long: " + "a" * 16384])), 431)

    def test_head_that_fits(self, cluster):
        answer, = exchange(cluster.port, request("GET", "/version", ["X-Long: " + "a" * 16000]))
        assert answer.status == 200

    def test_head_of_100_mib_is_not_read(self, cluster):
        before = rss_bytes(cluster.pid)
        with connect(cluster.port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
            taken = 0
            while taken < 100 << 20 and wire.send_all(connection, b"a" * (1 << 20)):
                taken += 1 << 20
        assert taken < 64 << 20
        assert rss_bytes(cluster.pid) - before < 16 << 20

    def test_101_fields(self, cluster):
        only(exchange(cluster.port, request(headers=[f"X-{i}: 1" for i in range(101)])), 431)

    def test_fields_without_end(self, cluster):
        only(exchange(cluster.port, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100_000), 431)

    @pytest.mark.parametrize("head", [
        b"POST /v1/completions HTTP/1.1\nHost: x\n\n",  # bare LF
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",  # folded
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
        b"PO ST /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST  /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/completions\r\nHost: x\r\n\r\n",
        b"POST /v1/comp\x80letions HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n\r\n",  # no Host
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a?b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a@b\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ])
    def test_malformed(self, cluster, head):
        answers = exchange(cluster.port, head)
        assert [a.status for a in answers] in ([400], [505])
        check_error(answers[0], answers[0].status)

    def test_version(self, cluster):
        only(exchange(cluster.port, b"GET / HTTP/3.0\r\nHost: x\r\n\r\n"), 505)

    def test_escaped_line_end_stays_literal(self, cluster):
        value = "a%0d%0aX-Injected: 1"
        answer, = exchange(cluster.port, request("GET", "/version", [f"X-Request-Id: {value}"]))
        assert answer.headers["x-request-id"] == value
        assert "x-injected" not in answer.headers

    @pytest.mark.parametrize("path", [
        "//v1/models", "/v1/../v1/models", "/v1/../admin", "/%76%31/models", "/v1/%2e%2e/models",
        "/V1/models", "/v1/models;x", "/v1/models/", "/metrics", "/admin", "/debug", "/v1",
        "http://elsewhere/v1/models", "/v1/completions/", "*", "/.."])
    def test_paths_are_compared_as_they_are(self, cluster, path):
        answer, = exchange(cluster.port, request("GET", path))
        check_error(answer, 404)

    @pytest.mark.parametrize("method, path, status", [
        ("TRACE", "/v1/models", 405), ("DELETE", "/v1/models", 405), ("GET", "/v1/completions", 405),
        ("PUT", "/v1/completions", 405), ("OPTIONS", "/health", 405), ("CONNECT", "x:80", 404),
        ("BREW", "/v1/models", 501), ("M" * 1024, "/", 400)])
    def test_methods(self, cluster, method, path, status):
        check_error(exchange(cluster.port, request(method, path))[0], status)

    @pytest.mark.parametrize("value", ["", ",,,", "'\"<>", ", ".join(["10.0.0.1"] * 1000)])
    def test_forwarded_for_is_not_trusted(self, cluster, value):
        answer, = exchange(
            cluster.port, request("GET", "/health", [f"X-Forwarded-For: {value}"]))
        assert answer.status == 200


class TestBody:
    @pytest.mark.parametrize("length", [10 << 30, 1 << 63, 1 << 64, 10 ** 30])
    def test_huge_length_is_refused_before_the_body(self, cluster, length):
        only(exchange(cluster.port, request(headers=[JSON_TYPE, f"Content-Length: {length}"])), 413)

    @pytest.mark.parametrize("lines", [
        ["Content-Length: -1"], ["Content-Length: +5"], ["Content-Length: 5,5"],
        ["Content-Length: 0x10"], ["Content-Length: 5 5"], ["Content-Length:"],
        ["Content-Length: 5", "Content-Length: 6"], ["Content-Length: 5", "Content-Length: 5"],
        [LENGTH, "Transfer-Encoding: chunked"], ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, identity"], ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]])
    def test_ambiguous_length(self, cluster, lines):
        # What follows looks like a second request; it must not be taken for one.
        smuggled = b"0\r\n\r\n" + request("GET", "/version")
        only(exchange(cluster.port, request(headers=[JSON_TYPE, *lines], body=smuggled)), 400)

    @pytest.mark.parametrize("chunk", [
        b"-2\r\nab\r\n", b"ffffffffffffffff\r\nab\r\n", b"fffffffffffffffff\r\n", b"0x10\r\nab\r\n",
        b"\r\nab\r\n", b"2;" + b"e" * 10240 + b"\r\nab\r\n", b"2\nab\r\n", b"2\r\nabc\r\n",
        b"g\r\n"])
    def test_broken_chunks(self, cluster, chunk):
        answers = exchange(cluster.port, request(
            headers=[JSON_TYPE, "Transfer-Encoding: chunked"], body=chunk + b"0\r\n\r\n"))
        assert [a.status for a in answers] in ([400], [413]), answers
        check_error(answers[0], answers[0].status)

    def test_a_million_chunks_of_one_byte(self, cluster):
        body = json.dumps({"prompt": "a" * 1_000_000, "max_tokens": 1}).encode()
        before = rss_bytes(cluster.pid)
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        answer, = exchange(cluster.port, request(
            headers=[JSON_TYPE, "Transfer-Encoding: chunked"], body=chunks))
        assert answer.status in (400, 413), answer
        assert rss_bytes(cluster.pid) - before < 64 << 20

    def test_chunked_body(self, cluster):
        answer, = exchange(cluster.port, request(
            headers=[JSON_TYPE, "Transfer-Encoding: chunked"],
            body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)))
        assert answer.status == 200

    def test_more_than_4_mib(self, cluster):
        body = b'{"prompt":"' + b"a" * (4 << 20) + b'"}'
        only(exchange(cluster.port, json_request(body)), 413)

    @pytest.mark.parametrize("kind", [None, "text/plain", "application/json; charset=utf-16",
                                      "application/x-www-form-urlencoded", "json", ""])
    def test_content_type(self, cluster, kind):
        lines = [LENGTH] + ([f"Content-Type: {kind}"] if kind is not None else [])
        only(exchange(cluster.port, request(headers=lines, body=BODY)), 415)

    def test_compressed_body(self, cluster):
        import gzip
        packed = gzip.compress(b" " * 1_000_000 + BODY)
        only(exchange(cluster.port, json_request(packed, ["Content-Encoding: gzip"])), 415)

    def test_a_get_has_no_body(self, cluster):
        only(exchange(cluster.port, request("GET", "/version", [LENGTH], BODY)), 400)

    def test_body_cut_short(self, cluster):
        with connect(cluster.port) as connection:
            connection.sendall(json_request(BODY)[:-5])
            connection.shutdown(socket.SHUT_WR)
            answers = wire.parse_responses(wire.read_until_closed(connection))
        assert [a.status for a in answers] in ([400], [])

    def test_1000_pipelined_requests_are_answered_in_order(self, cluster):
        data = b"".join(request("GET", "/version", [f"X-Request-Id: p{i}"], close=False)
                        for i in range(999)) + request("GET", "/version", ["X-Request-Id: p999"])
        with connect(cluster.port) as connection:
            sender = threading.Thread(target=wire.send_all, args=(connection, data))
            sender.start()
            answers = wire.parse_responses(wire.read_until_closed(connection))
            sender.join()
        ids = [a.headers["x-request-id"] for a in answers]
        assert ids == [f"p{i}" for i in range(len(ids))] and len(ids) == 1000

    def test_random_bytes(self, cluster):
        dice = random.Random(1)
        for port in (cluster.port, cluster.operator_port):
            for _ in range(50):
                with connect(port) as connection:
                    wire.send_all(connection, dice.randbytes(dice.choice((1, 20, 3000))))
                    wire.send_all(connection, b"\r\n\r\n")
                    for answer in wire.parse_responses(wire.read_until_closed(connection)):
                        assert answer.status in (400, 414, 431, 505)


class TestSlow:
    """Everything that waits for a time limit, at the same time: it takes 10 seconds."""

    def test_slow_clients_get_408_and_others_are_served(self, cluster):
        stop = threading.Event()

        def drip(connection, data, seconds):
            for byte in data:
                if stop.wait(seconds) or not wire.send_all(connection, bytes([byte])):
                    return

        slow = {"head": request("GET", "/version", ["X: " + "a" * 100]),
                "body": json_request(b" " * 4000)}
        connections = {}
        drippers = []
        start_time = time.monotonic()
        for name, data in slow.items():
            for i in range(20):
                connection = connections[name, i] = connect(cluster.port, 120)
                start = data.index(b"\r\n\r\n") + 4 if name == "body" else 1
                connection.sendall(data[:start])
                drippers.append(threading.Thread(target=drip, args=(connection, data[start:], 0.5)))
        connections["expect", 0] = connect(cluster.port, 120)
        connections["expect", 0].sendall(
            json_request(BODY, ["Expect: 100-continue"])[:-len(BODY)])
        for dripper in drippers:
            dripper.start()
        try:
            for _ in range(5):
                assert Rest(cluster.port).complete(prompt="Hi", max_tokens=1)
            statuses = {}
            for (name, i), connection in connections.items():
                answers = wire.parse_responses(wire.read_until_closed(connection))
                statuses.setdefault(name, set()).update(a.status for a in answers)
            took = time.monotonic() - start_time
        finally:
            stop.set()
            for connection in connections.values():
                connection.close()
            for dripper in drippers:
                dripper.join()
        assert statuses == {"head": {408}, "body": {408}, "expect": {408}}
        assert took > 5  # all that was sent would have taken minutes

    def test_readers_that_stop_reading_are_cancelled(self, cluster, pb):
        """Over HTTP and gRPC: an answer that nobody reads ends long before its last token, and the
        reason is counted."""
        name = "paceline_router_slow_reader_cancels_total"
        before = cluster.metric(name)
        # Eight choices each, so that there is soon more than buffers hold.
        body = json.dumps({"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "logprobs": 20,
                           "stream": True, "temperature": 1, "seed": 1, "n": 8}).encode()
        message = pb.GenerateRequest(text="x", sampling=pb.SamplingParams(
            max_tokens=2000, ignore_eos=True, logprobs=20, seed=1, n=8)).SerializeToString()
        with connect(cluster.port) as connection, wire.Http2(cluster.grpc_port) as http2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(json_request(body))
            # Without WINDOW_UPDATE the server may send 64 KiB.
            http2.send(
                wire.frame(wire.HEADERS, wire.END_HEADERS, 1, wire.hpack(
                    wire.grpc_headers("/paceline.v1.Inference/GenerateStream"))),
                wire.frame(wire.DATA, wire.END_STREAM, 1, wire.grpc_message(message)))
            eventually(lambda: cluster.metric(name) == before + 2, 600, "both are cancelled")
            cluster.wait_idle()
            data = wire.read_until_closed(connection)
            assert b"[DONE]" not in data
            assert b"slow_reader" in data or not data.endswith(b"0\r\n\r\n")


class TestConnections:
    LONG = json.dumps({"prompt": "Hello", "max_tokens": 1900, "ignore_eos": True,
                       "stream": True}).encode()

    def test_reset_before_during_and_after_the_head(self, cluster):
        data = json_request(BODY)
        for cut in (0, 1, 20, data.index(b"\r\n\r\n"), len(data) - 3):
            connection = connect(cluster.port)
            connection.sendall(data[:cut])
            wire.reset(connection)

    def test_reset_in_the_middle_of_a_stream(self, cluster, idle):
        connection = connect(cluster.port)
        connection.sendall(json_request(self.LONG))
        assert connection.recv(1)
        wire.reset(connection)
        idle()

    def test_half_closed_is_gone(self, cluster, idle):
        connection = connect(cluster.port)
        connection.sendall(json_request(self.LONG))
        assert connection.recv(1)
        connection.shutdown(socket.SHUT_WR)
        idle()
        connection.close()

    def test_idle_connections_do_not_keep_others_out(self, cluster):
        files = open_files(cluster.pid)
        held = []
        try:
            for _ in range(1200):
                held.append(connect(cluster.port))
            assert Rest(cluster.port).get("/version").status == 200
            # The ones that make room are closed by other threads than the one that accepts.
            eventually(lambda: open_files(cluster.pid) - files <= 1024 + 16, 120, "no more than 1024 stay")
        finally:
            for connection in held:
                connection.close()
        eventually(lambda: open_files(cluster.pid) <= files + 8, 120, "the connections are closed")

    def test_2000_connections_that_are_reset_at_once(self, cluster):
        files = open_files(cluster.pid)
        for port in (cluster.port, cluster.grpc_port):
            for _ in range(1000):
                wire.reset(connect(port))
        assert Rest(cluster.port).get("/version").status == 200
        eventually(lambda: open_files(cluster.pid) <= files + 8, 120, "no file is leaked")


class TestWorkerPort:
    """The plane between router and worker is no place for strangers either."""

    def test_random_bytes_and_http(self, cluster):
        ports = cluster.worker_ports()
        assert len(ports) == 2
        dice = random.Random(2)
        for port in ports:
            for data in (dice.randbytes(1), dice.randbytes(5000), request("GET", "/"),
                         json_request(BODY), b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                         + os.urandom(200)):
                connection = connect(port)
                wire.send_all(connection, data)
                wire.reset(connection)
            with wire.Http2(port) as http2:
                http2.send(wire.frame(wire.HEADERS, wire.END_HEADERS, 1, wire.hpack(
                    wire.grpc_headers("/paceline.v1.WorkerService/Nothing"))),
                    wire.frame(wire.DATA, wire.END_STREAM, 1, wire.grpc_message(b"\xff" * 50)))
                assert http2.is_alive()
        assert cluster.ready_replicas() == 2


class TestSecrets:
    def test_no_header_shows_in_an_answer(self, cluster):
        for headers in ([f"X-Thing: {CANARY}"], [f"Authorization: Bearer {CANARY}"],
                        [f"Cookie: {CANARY}"], [f"User-Agent: {CANARY}"]):
            for data in (request("GET", f"/{CANARY}", headers),
                         json_request(b'{"' + CANARY.encode(), headers)):
                answer, = exchange(cluster.port, data)
                assert CANARY.encode() not in answer.body
                assert CANARY not in str(answer.headers)
