"""With --api-key every route but health needs the key; and what a small replica refuses."""

import grpc
import pytest

from support import wire
from support.cluster import CANARY
from support.rest import Rest, check_error
from support.wire import JSON_TYPE, exchange, request

KEY = "k-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
BODY = b'{"prompt":"x","max_tokens":1}'
ROUTES = [
    ("GET", "/v1/models"), ("GET", "/v1/models/x"), ("GET", "/version"),
    ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"), ("POST", "/detokenize"),
    # What there is not is nobody's business either.
    ("GET", "/"), ("GET", "/metrics"), ("GET", "/admin"), ("GET", "/docs"), ("POST", "/invocations"),
    ("POST", "/pause"), ("GET", "//v1/models"), ("GET", "/v1/../health"), ("GET", "/health/"),
    ("GET", "/Health"), ("GET", "/health;x"), ("GET", "/%68ealth"), ("GET", "/health/../v1/models"),
    ("DELETE", "/v1/models"), ("BREW", "/v1/models")]


@pytest.fixture(scope="module")
def locked(start_cluster, make_health):
    # The key by environment: a command line is for everyone to read.
    cluster = start_cluster("--max-model-len", 2048, "--kv-cache-memory", "24MiB", replicas=1,
                            env={"PACELINE_API_KEY": KEY})
    health = make_health(cluster, KEY)
    yield cluster
    health.check()
    assert KEY not in cluster.log
    assert cluster.stop() == 0


@pytest.fixture(scope="module")
def good(locked):
    return Rest(locked.port, KEY)


def unauthorized(answer):
    error = check_error(answer, 401, None, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    return error


class TestHttp:
    @pytest.mark.parametrize("method, path", ROUTES)
    def test_no_key_no_answer(self, locked, method, path):
        answer, = exchange(locked.port, request(
            method, path, [JSON_TYPE, f"Content-Length: {len(BODY)}"] if method == "POST" else [],
            BODY if method == "POST" else b""))
        unauthorized(answer)

    def test_health_is_free(self, locked):
        rest = Rest(locked.port)
        assert rest.get("/health").status == 200
        assert rest.get("/ready").status == 200

    def test_the_key_opens_everything(self, good):
        assert good.get("/v1/models").status == 200
        assert good.get("/version").status == 200
        assert good.complete(prompt="x", max_tokens=1)
        assert good.tokenize(prompt="x")
        assert good.post("/v1/embeddings", {}).status == 501
        assert good.get("/metrics").status == 404

    @pytest.mark.parametrize("lines", [
        ["Authorization: Bearer"], ["Authorization: Bearer "], ["Authorization:"],
        [f"Authorization: {KEY}"], [f"Authorization: Basic {KEY}"], [f"Authorization: Token {KEY}"],
        [f"Authorization: Bearer {KEY} {KEY}"], [f"Authorization: Bearer {KEY}x"],
        [f"Authorization: Bearer x{KEY}"], [f"Authorization: Bearer {KEY.upper()}"],
        [f"Authorization: Bearer {CANARY}"], [f"Authorization: Bearer {'k' * 8000}"],
        [f"Authorization: Bearer {KEY}", f"Authorization: Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}", "Authorization: Bearer x"],
        [f"Authorization: Bearer {KEY}".encode() + b"\x80"],
        [f"Authorization: Bearer {KEY},"], [f"Proxy-Authorization: Bearer {KEY}"],
        [f"X-Api-Key: {KEY}"], [f"Cookie: api_key={KEY}"]])
    def test_what_is_no_key(self, locked, lines):
        answer, = exchange(locked.port, request("GET", "/v1/models", lines))
        unauthorized(answer)

    def test_a_nul_in_the_key(self, locked):
        answer, = exchange(locked.port, request(
            "GET", "/v1/models", [f"Authorization: Bearer {KEY}".encode() + b"\0"]))
        check_error(answer, 400)

    def test_a_key_of_1_mib(self, locked):
        answer, = exchange(locked.port, request(
            "GET", "/v1/models", ["Authorization: Bearer " + "k" * (1 << 20)]))
        check_error(answer, 431)

    def test_every_prefix_of_the_key(self, locked):
        for i in range(len(KEY)):
            for key in (KEY[:i], KEY[:i] + "#" + KEY[i + 1:]):
                unauthorized(Rest(locked.port, key).get("/v1/models"))

    @pytest.mark.parametrize("line", [f"Authorization: bearer {KEY}", f"authorization: BEARER {KEY}"])
    def test_the_scheme_has_no_case(self, locked, line):
        answer, = exchange(locked.port, request("GET", "/v1/models", [line]))
        assert answer.status == 200

    @pytest.mark.parametrize("host", ["a/v1/models", "a?b", "a@b", "a b", "[::1", ""])
    def test_odd_hosts_do_not_open(self, locked, host):
        answers = exchange(locked.port, request("GET", "/v1/models", host=f"Host: {host}\r\n"))
        assert [a.status for a in answers] in ([400], [401])

    def test_refused_before_the_body_is_read(self, locked):
        answer, = exchange(locked.port, request(
            headers=[JSON_TYPE, f"Content-Length: {4 << 20}"]))
        unauthorized(answer)

    def test_the_other_error_comes_after_the_key(self, locked):
        answer, = exchange(locked.port, request(
            headers=["Content-Type: text/plain", "Content-Length: 1"], body=b"x"))
        unauthorized(answer)


class TestGrpc:
    @pytest.fixture(scope="class")
    def channel(self, locked):
        with grpc.insecure_channel(locked.grpc_address) as channel:
            yield channel

    @pytest.mark.parametrize("method", [
        "Generate", "Chat", "Embed", "Tokenize", "Detokenize", "ListModels", "GetModel"])
    @pytest.mark.parametrize("metadata", [
        [], [("authorization", "Bearer")], [("authorization", KEY)],
        [("authorization", f"Bearer {KEY}x")], [("authorization", f"Basic {KEY}")],
        [("authorization", f"Bearer {KEY}")] * 2, [("x-api-key", KEY)]])
    def test_no_key_no_answer(self, channel, method, metadata):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(f"/paceline.v1.Inference/{method}")(b"", metadata=metadata)
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize("method", ["GenerateStream", "ChatStream"])
    def test_no_stream_without_a_key(self, channel, method):
        with pytest.raises(grpc.RpcError) as error:
            list(channel.unary_stream(f"/paceline.v1.Inference/{method}")(b""))
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED

    def test_no_reflection_without_a_key(self, channel):
        listing = b"\x3a\x00"  # ServerReflectionRequest{list_services: ""}
        call = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError):
            list(call(iter([listing])))
        key = [("authorization", f"Bearer {KEY}")]
        assert b"paceline.v1.Inference" in list(call(iter([listing]), metadata=key))[0]

    def test_health_is_free(self, channel):
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"

    def test_the_key_opens(self, pb, channel):
        answer = pb.InferenceStub(channel).Generate(
            pb.GenerateRequest(text="x", sampling=pb.SamplingParams(max_tokens=1)),
            metadata=[("authorization", f"Bearer {KEY}")])
        assert answer.usage.completion_tokens == 1


class TestSmallCache:
    """The context is 2048 tokens, the cache holds about 1000."""

    def test_what_can_never_fit_is_refused_and_blocks_nobody(self, good):
        for body, param in (({"prompt": [1000] * 1500, "max_tokens": 1}, "prompt"),
                            ({"prompt": "x", "max_tokens": 1500}, "prompt")):
            error = check_error(good.post("/v1/completions", body), 400,
                                code="kv_capacity_exceeded")
            assert error["param"] in (param, "max_tokens")
        assert good.complete(prompt="x", max_tokens=1)

    def test_a_chat_without_max_tokens_takes_what_there_is(self, good):
        answer = good.chat(messages=[{"role": "user", "content": "word " * 950}], ignore_eos=True)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] < 1200

    def test_operator_port_is_not_the_public_one(self, locked):
        assert Rest(locked.operator_port).get("/metrics").status == 200
        for path in ("/v1/models", "/v1/completions", "/version"):
            assert Rest(locked.operator_port).get(path).status == 404
        answers = exchange(locked.operator_port, request(
            "POST", "/metrics", [JSON_TYPE, f"Content-Length: {len(BODY)}"], BODY))
        assert [a.status for a in answers] == [405]
        assert wire.exchange(locked.operator_port, request("GET", "/../metrics"))[0].status == 404
