"""gRPC that no proper client sends: broken messages, metadata and HTTP/2 frames."""

import os
import random
import struct
import subprocess
import sys

import grpc
import pytest

from support import wire
from support.cluster import CANARY
from support.processes import rss_bytes
from support.wire import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    Http2, frame, grpc_headers, grpc_message, grpc_status, hpack)

# The idle client first: its time runs beside the other tests.
pytestmark = pytest.mark.usefixtures("idle_client", "unharmed")

Code = grpc.StatusCode
# Bytes that are no message do not reach our code: gRPC 1.51's callback services answer them with
# UNIMPLEMENTED, other versions with INTERNAL.
NO_MESSAGE = (Code.INVALID_ARGUMENT, Code.INTERNAL, Code.UNIMPLEMENTED)
NUMBER = {code: code.value[0] for code in Code}


def status_of(call):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert CANARY not in (error.value.details() or "")
    return error.value.code()


def varint(value):
    out = []
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + [value])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


IDLE_CLIENT = """
import sys, time, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    call = channel.unary_unary("/paceline.v1.Inference/ListModels")
    call(b"")
    time.sleep(25)
    call(b"")
"""


@pytest.fixture(scope="module")
def idle_client(cluster):
    """A program that connects, asks once, and then has nothing to ask for a while."""
    with subprocess.Popen([sys.executable, "-c", IDLE_CLIENT, cluster.grpc_address],
                          stderr=subprocess.PIPE) as client:
        yield client
        client.kill()


class TestMessages:
    @pytest.mark.parametrize("method", ["Generate", "Chat", "Tokenize", "Detokenize", "GetModel"])
    @pytest.mark.parametrize("body", [
        b"\xff" * 20,                             # an endless varint
        b"\x0a\xff\xff\xff\xff\x0f",              # a length beyond the end
        b"\x0a",                                  # cut
        field(1, b"\xff\xfe"),                    # no UTF-8
        b"\x00\x00",                              # field number 0
        b"\x0b" * 10_000,                         # groups in groups, never closed
        b"\x7b" * 10_000 + b"\x7c" * 10_000,      # unknown groups, closed
        b"\x07",                                  # wire type 7
    ])
    def test_no_message(self, channel, method, body):
        code = status_of(lambda: channel.unary_unary(f"/paceline.v1.Inference/{method}")(body))
        assert code in NO_MESSAGE

    def test_no_message_on_a_stream(self, channel):
        call = channel.unary_stream("/paceline.v1.Inference/GenerateStream")
        code = status_of(lambda: list(call(b"\xff" * 20)))
        assert code in NO_MESSAGE

    def test_deeply_nested_message(self, channel):
        # ChatRequest.sampling is no recursive type, so the depth is in unknown fields.
        body = b""
        for _ in range(101):
            body = field(100, body)
        code = status_of(lambda: channel.unary_unary("/paceline.v1.Inference/Chat")(body))
        assert code in NO_MESSAGE

    @pytest.mark.parametrize("request_fields", [
        {}, {"model": ""}, {"text": ""}])
    def test_without_a_prompt(self, pb, stub, request_fields):
        assert status_of(lambda: stub.Generate(
            pb.GenerateRequest(**request_fields))) == Code.INVALID_ARGUMENT

    def test_empty_messages(self, pb, stub):
        for call in (lambda: stub.Generate(pb.GenerateRequest(token_ids=pb.TokenIds())),
                     lambda: stub.Chat(pb.ChatRequest()),
                     lambda: stub.Chat(pb.ChatRequest(messages=[pb.ChatMessage()])),
                     lambda: stub.Tokenize(pb.TokenizeRequest()),
                     lambda: stub.Tokenize(pb.TokenizeRequest(
                         text="x", messages=[pb.ChatMessage(role="user", content="x")])),
                     lambda: list(stub.ChatStream(pb.ChatRequest()))):
            assert status_of(call) == Code.INVALID_ARGUMENT

    def test_chat_fields(self, pb, stub):
        message = pb.ChatMessage(role="user", content="x")
        for name, value in (("tools_json", "[{}]"), ("tools_json", CANARY),
                            ("chat_template_kwargs_json", "{"),
                            ("chat_template_kwargs_json", "[1]"),
                            ("chat_template_kwargs_json", '{"messages":[]}'),
                            ("chat_template_kwargs_json", '{"a":' + "[" * 1000 + "]" * 1000 + "}"),
                            ("chat_template_kwargs_json", '{"a":"' + "x" * 70_000 + '"}')):
            assert status_of(lambda: stub.Chat(pb.ChatRequest(
                messages=[message], **{name: value}))) == Code.INVALID_ARGUMENT, (name, value[:20])
        bad = pb.ChatMessage(role="assistant", tool_calls_json="{}")
        assert status_of(lambda: stub.Chat(pb.ChatRequest(
            messages=[message, bad]))) == Code.INVALID_ARGUMENT
        assert status_of(lambda: stub.Chat(pb.ChatRequest(
            messages=[message] * 4097))) == Code.INVALID_ARGUMENT
        assert status_of(lambda: stub.Chat(pb.ChatRequest(
            messages=[message], sampling=pb.SamplingParams(logprobs=1)))) == Code.INVALID_ARGUMENT

    def test_more_than_4_mib(self, pb, stub):
        assert status_of(lambda: stub.Generate(
            pb.GenerateRequest(text="a" * (4 << 20)))) == Code.RESOURCE_EXHAUSTED

    def test_4_million_token_ids(self, pb, stub):
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * 4_000_000))
        assert status_of(lambda: stub.Generate(request)) == Code.INVALID_ARGUMENT

    def test_declared_length_of_4_gib(self, cluster):
        before = rss_bytes(cluster.pid)
        status = grpc_status(cluster.grpc_port,
                             message=grpc_message(b"\x12\x01x", length=0xFFFFFFFF))
        assert status != 0
        assert rss_bytes(cluster.pid) - before < 16 << 20

    def test_random_messages(self, channel):
        dice = random.Random(3)
        for _ in range(200):
            method = dice.choice(("Generate", "Chat", "Tokenize", "Detokenize", "GetModel"))
            call = channel.unary_unary(f"/paceline.v1.Inference/{method}")
            try:
                call(dice.randbytes(dice.randrange(1, 60)), timeout=300)
            except grpc.RpcError as error:
                assert error.code() in (*NO_MESSAGE, Code.NOT_FOUND)


class TestCalls:
    @pytest.mark.parametrize("method", [
        "/paceline.v1.Inference/Nothing", "/paceline.v1.Nothing/Generate", "/x", "/",
        "/paceline.v1.WorkerService/Attach", "/paceline.v1.Admin/ListReplicas"])
    def test_unknown_methods(self, channel, method):
        assert status_of(lambda: channel.unary_unary(method)(b"")) == Code.UNIMPLEMENTED

    def test_metadata_of_1_mib(self, pb, cluster):
        with grpc.insecure_channel(cluster.grpc_address) as channel:
            stub = pb.InferenceStub(channel)
            code = status_of(lambda: stub.ListModels(
                pb.ListModelsRequest(), metadata=[("x-long", "a" * (1 << 20))]))
        assert code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.INTERNAL)

    def test_binary_metadata(self, pb, stub):
        stub.ListModels(pb.ListModelsRequest(), metadata=[("junk-bin", os.urandom(500))])

    @pytest.mark.parametrize("value", ["0n", "1n"])
    def test_timeout_of_nothing(self, cluster, value):
        status = grpc_status(cluster.grpc_port, [("grpc-timeout", value)], grpc_message(b"\x12\x01x"))
        assert status in (-1, NUMBER[Code.DEADLINE_EXCEEDED])

    @pytest.mark.parametrize("value", ["99999999H", "-1S", "abc", "1", "S", "999999999S", ""])
    def test_odd_timeouts_do_no_harm(self, cluster, value):
        status = grpc_status(cluster.grpc_port, [("grpc-timeout", value)], grpc_message(b"\x12\x00"))
        assert status in (-1, NUMBER[Code.INVALID_ARGUMENT], NUMBER[Code.INTERNAL],
                          NUMBER[Code.DEADLINE_EXCEEDED])

    @pytest.mark.parametrize("headers, compressed", [
        ([("grpc-encoding", "nothing")], 1), ([], 1), ([("grpc-encoding", "gzip")], 1),
        ([("grpc-encoding", "identity")], 1), ([], 7)])
    def test_compression_that_is_none(self, cluster, headers, compressed):
        # gRPC 1.51 takes the bytes as they are where it knows no compression.
        status = grpc_status(cluster.grpc_port, headers, grpc_message(b"\x12\x01x", compressed))
        assert status in (-1, 0, NUMBER[Code.UNIMPLEMENTED], NUMBER[Code.INTERNAL],
                          NUMBER[Code.INVALID_ARGUMENT])

    def test_compression_bomb(self, cluster):
        import gzip
        before = rss_bytes(cluster.pid)
        bomb = gzip.compress(field(2, b"a" * (40 << 20)))
        assert len(bomb) < 60_000  # the first window
        with Http2(cluster.grpc_port) as http2:
            http2.send(frame(HEADERS, END_HEADERS, 1,
                             hpack(grpc_headers(more=[("grpc-encoding", "gzip")]))))
            message = grpc_message(bomb, compressed=1)
            while message:
                http2.send(frame(DATA, 0 if len(message) > 16384 else END_STREAM, 1,
                                 message[:16384]))
                message = message[16384:]
            for kind, _, stream, payload in http2.frames():
                if kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and b"grpc-status" in payload):
                    break
        assert rss_bytes(cluster.pid) - before < 160 << 20

    @pytest.mark.parametrize("change", [
        {"te": "x"}, {":scheme": "x"}, {":path": ""}, {":path": "no-slash"}, {":method": "GET"},
        {"content-type": "text/html"}, {"content-type": ""}, {":authority": ""}])
    def test_odd_headers_with_long_metadata(self, cluster, change):
        headers = [(name, change.get(name, value)) for name, value in grpc_headers()]
        grpc_status(cluster.grpc_port, headers=headers + [("x", "y" * 9000)])
        grpc_status(cluster.grpc_port, headers=headers)

    def test_missing_and_repeated_headers(self, cluster):
        good = grpc_headers()
        for i in range(len(good)):
            grpc_status(cluster.grpc_port, headers=good[:i] + good[i + 1:])
            grpc_status(cluster.grpc_port, headers=good + [good[i]])


class TestFrames:
    def test_10_000_streams_opened_and_reset(self, cluster, pb):
        """What is reset is not computed, whether or not it had reached a worker by then."""
        def ended(**labels):
            return cluster.metric("vllm:request_success_total", **labels)
        aborted, all_ended = ended(finished_reason="abort"), ended()
        tokens = cluster.metric("vllm:generation_tokens_total")
        message = grpc_message(pb.GenerateRequest(
            text="x", sampling=pb.SamplingParams(max_tokens=1000, ignore_eos=True)
        ).SerializeToString())
        block = hpack(grpc_headers())
        with Http2(cluster.grpc_port) as http2:
            for first in range(1, 20_001, 200):
                frames = [
                    frame(HEADERS, END_HEADERS, stream, block)
                    + frame(DATA, END_STREAM, stream, message)
                    + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
                    for stream in range(first, first + 200, 2)]
                if not http2.send(*frames):
                    break
            http2.is_alive()  # it has read them all
        cluster.wait_idle()
        assert ended() - all_ended == ended(finished_reason="abort") - aborted, "one was answered to its end"
        assert cluster.metric("vllm:generation_tokens_total") - tokens < 10_000 * 1000 / 50

    def test_headers_without_end(self, cluster):
        """gRPC 1.51 compares GRPC_ARG_MAX_METADATA_SIZE with each HEADERS or CONTINUATION frame by
        itself: frames below it add up in the stream's metadata until END_HEADERS or the end of the
        connection. Neither an argument nor a ResourceQuota (those strings are not counted) bounds
        it; a newer gRPC or a proxy in front does. What is sure is that the memory is the call's, and
        there for others after it."""
        before = rss_bytes(cluster.pid)
        part = hpack([("x", "y" * 8000)]) * 2
        for _ in range(16):  # of 32 MB each
            with Http2(cluster.grpc_port) as http2:
                http2.send(frame(HEADERS, 0, 1, hpack(grpc_headers())))
                for _ in range(2000):
                    if not http2.send(frame(CONTINUATION, 0, 1, part)):
                        break
                http2.send(frame(CONTINUATION, END_HEADERS, 1, part), frame(DATA, END_STREAM, 1, grpc_message(b"")))
                for kind, *_ in http2.frames():
                    if kind in (HEADERS, RST_STREAM, GOAWAY):  # it has read what it ever will
                        break
        assert rss_bytes(cluster.pid) - before < 256 << 20

    @pytest.mark.parametrize("block", [
        b"\x00\x7f\xff\xff\xff\xff\x0f" + b"a" * 100,    # a name of 4 GiB
        b"\x00\x01a\x7f\xff\xff\xff\xff\x0f" + b"b" * 100,
        b"\x00\x7f" + b"\x80" * 100 + b"\x00",           # zeros without end
        b"\x3f" + b"\x80" * 30 + b"\x00",
        b"\x3f\xe1\xff\xff\xff\x0f",                     # a table of 4 GiB
        b"\x20\x3f\xe1\x1f" * 1000,                      # table sizes to and fro
        b"\x80", b"\xff\xff\xff\xff\x0f",                # indices of nothing
        b"\x00\x81\xff\x01b",                            # bad Huffman code
    ])
    def test_hpack(self, cluster, block):
        before = rss_bytes(cluster.pid)
        with Http2(cluster.grpc_port, timeout=5) as http2:
            http2.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
            for kind, *_ in http2.frames():
                if kind in (GOAWAY, RST_STREAM):
                    break
        assert rss_bytes(cluster.pid) - before < 16 << 20

    @pytest.mark.parametrize("flood", [
        frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0), frame(DATA, 0, 1),
        frame(PING, ACK, 0, b"12345678"), frame(8, 0, 0, struct.pack(">I", 1)),
        frame(2, 0, 1, bytes(5)), frame(0x55, 0, 0, b"unknown")])
    def test_floods(self, cluster, flood):
        before = rss_bytes(cluster.pid)
        with Http2(cluster.grpc_port) as http2:
            http2.send(frame(HEADERS, END_HEADERS, 1, hpack(grpc_headers())))
            http2.connection.settimeout(2)  # a server may stop reading: we read nothing either
            for _ in range(200):
                if not http2.send(flood * 500):
                    break
        assert rss_bytes(cluster.pid) - before < 32 << 20

    def test_pings(self, cluster):
        """Some are welcome, also while no call runs; too many end the connection."""
        with Http2(cluster.grpc_port) as http2:
            http2.send(frame(PING, 0, 0, b"12345678") * 100)
            assert http2.is_alive()
            http2.send(frame(PING, 0, 0, b"12345678") * 2000)
            assert GOAWAY in [kind for kind, *_ in http2.frames()]

    @pytest.mark.parametrize("bad", [
        frame(HEADERS, END_HEADERS, 0, hpack(grpc_headers())),
        frame(HEADERS, END_HEADERS, 2, hpack(grpc_headers())),
        frame(DATA, 0, 5, b"x"), frame(SETTINGS, 0, 0, b"12345"), frame(SETTINGS, 0, 1),
        frame(PING, 0, 0, b"short"), frame(8, 0, 0, bytes(4)), frame(CONTINUATION, 0, 1, b"x"),
        frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0xFFFFFFFF)),
        b"\xff\xff\xff" + bytes(6), os.urandom(500)])
    def test_frames_out_of_place(self, cluster, bad):
        with Http2(cluster.grpc_port, timeout=3) as http2:
            http2.send(bad)
            http2.is_alive(timeout=1)

    def test_no_http2_at_all(self, cluster):
        dice = random.Random(4)
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 1000, b"PRI * HTTP/2.0\r\n\r\nXX",
                     dice.randbytes(3000), b"\x16\x03\x01" + dice.randbytes(300)):
            with wire.connect(cluster.grpc_port) as connection:
                wire.send_all(connection, data)
                connection.settimeout(1)
                try:
                    connection.recv(1000)
                except OSError:
                    pass


class TestPatience:
    def test_a_client_that_was_idle_for_25_seconds_is_served(self, idle_client):
        """Python's channels answer no pings while no call runs."""
        _, errors = idle_client.communicate(timeout=300)
        assert idle_client.returncode == 0, errors.decode()
