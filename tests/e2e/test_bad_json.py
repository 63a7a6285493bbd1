"""Bodies that are no JSON, the wrong JSON, or the right JSON of the wrong types."""

import json

import pytest

from support.cluster import CANARY
from support.processes import rss_bytes
from support.rest import check_error

pytestmark = pytest.mark.usefixtures("unharmed")

COMPLETION = "/v1/completions"
CHAT = "/v1/chat/completions"
PATHS = [COMPLETION, CHAT, "/tokenize", "/detokenize"]
HELLO = {"prompt": "Hello", "max_tokens": 1}
USER = {"role": "user", "content": "Hi"}
HI = {"messages": [USER], "max_tokens": 1}


def refused(rest, path, body, param="any", code="any", status=400):
    return check_error(rest.post(path, body), status, param, code)


class TestDocuments:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("body", [
        b"", b" ", b"null", b"[]", b'""', b"5", b"true", b"{", b"}", b"{}}", b'{"prompt":}',
        b"{'prompt':'x'}", b'{"prompt":"x",}', b'{"prompt" "x"}', b'{"prompt":"x"', b'{"a":01}',
        b'{"a":.5}', b'{"a":+1}', b'{"a":1e}', b'{"a":tru}', b'{"a":"\t"}', b"/* */{}",
        b'{"prompt":"x"} x', b'{"prompt":"x"}{"prompt":"y"}', b'\xef\xbb\xbf{"prompt":"x"}',
        b'{"prompt":"x"}\0', '{"prompt":"x"}'.encode("utf-16"), b"\xff" * 10])
    def test_not_one_object(self, rest, path, body):
        refused(rest, path, body, param=None)

    @pytest.mark.parametrize("text", [
        b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82",
        "中文".encode("gbk"), b"\\ud800", b"\\udc00\\ud800", b"\\u12", b"\\x41"])
    def test_not_unicode(self, rest, text):
        refused(rest, COMPLETION, b'{"max_tokens":1,"prompt":"%b"}' % text, code="invalid_json")
        refused(rest, CHAT, b'{"messages":[{"role":"user","content":"%b"}]}' % text,
                code="invalid_json")
        refused(rest, "/tokenize", b'{"prompt":"%b"}' % text, code="invalid_json")

    @pytest.mark.parametrize("depth", [65, 100_000])
    @pytest.mark.parametrize("path", PATHS)
    def test_deep_nesting(self, rest, path, depth):
        refused(rest, path, b'{"prompt":' + b"[" * depth + b"]" * depth + b"}")
        refused(rest, path, b'{"a":' * depth + b"1" + b"}" * depth)
        refused(rest, path, b"[" * depth)

    @pytest.mark.parametrize("number", [
        "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-400", "9" * 20, "-" + "9" * 20,
        "9" * 400, "0x10"])
    @pytest.mark.parametrize("field", ["temperature", "max_tokens", "seed"])
    def test_numbers_that_do_not_fit(self, rest, field, number):
        refused(rest, COMPLETION, b'{"prompt":"x","%b":%b}' % (field.encode(), number.encode()))

    @pytest.mark.parametrize("number", ["-0", "-0.0", "0e999", "0.000", "1e-320"])
    def test_odd_zeros_are_greedy(self, rest, number):
        body = b'{"prompt":"Hello","max_tokens":2,"temperature":%b}' % number.encode()
        greedy = rest.complete(prompt="Hello", max_tokens=2, temperature=0)
        assert rest.ok(COMPLETION, body)["choices"] == greedy["choices"]

    @pytest.mark.parametrize("body, name", [
        (b'{"model":"a","prompt":"x","model":"b"}', "model"),
        (b'{"n":1,"prompt":"x","n":2}', "n"),
        (b'{"prompt":"x","prompt":"y"}', "prompt"),
        (b'{"prompt":"x","\\u006e":1,"n":2}', "n")])
    def test_duplicate_names(self, rest, body, name):
        refused(rest, COMPLETION, body, param=name, code="duplicate_key")

    def test_a_body_cut_at_every_byte(self, rest):
        body = json.dumps({**HELLO, "stop": ["a", "é"], "seed": 1}).encode()
        for i in range(len(body)):
            refused(rest, COMPLETION, body[:i], param=None)

    def test_unknown_fields(self, rest):
        for path, base in ((COMPLETION, HELLO), (CHAT, HI), ("/tokenize", {"prompt": "x"}),
                           ("/detokenize", {"tokens": [1]})):
            refused(rest, path, {**base, "tempature": 1}, "tempature", "unknown_field")
        refused(rest, CHAT, {"messages": [{**USER, "mood": "good"}]}, "messages[0].mood",
                "unknown_field")
        refused(rest, COMPLETION, {**HELLO, "stream_options": {"x": 1}}, "stream_options.x",
                "unknown_field")

    def test_many_or_long_unknown_fields(self, rest):
        refused(rest, COMPLETION, {**HELLO, **{f"x{i}": i for i in range(10_000)}})
        error = refused(rest, COMPLETION, {**HELLO, "x" * (1 << 20): 1}, code="unknown_field")
        assert len(error["param"]) <= 64
        error = refused(rest, COMPLETION, {**HELLO, 'a"<b>\n\x01é': 1}, code="unknown_field")
        assert error["param"].isascii() and error["param"].isprintable()
        assert not set(error["param"]) & set('"<>\\')

    def test_huge_arrays(self, rest, cluster):
        before = rss_bytes(cluster.pid)
        refused(rest, CHAT, b'{"messages":[' + b",".join([b"0"] * 1_000_000) + b"]}")
        refused(rest, COMPLETION, b'{"prompt":"x","stop":[' + b'"",' * 1_000_000 + b'""]}')
        refused(rest, COMPLETION, b'{"prompt":"x","stop":[' + b"{}," * 1_000_000 + b"{}]}")
        assert rss_bytes(cluster.pid) - before < 128 << 20

    def test_nul_in_a_prompt_is_a_character(self, rest):
        ids = rest.tokenize(prompt="a\0b")
        assert len(ids) == 3
        assert rest.ok("/detokenize", {"tokens": ids})["prompt"] == "a\0b"
        answer = rest.complete(prompt="a\0b", max_tokens=1, return_token_ids=True)
        assert answer["prompt_token_ids"] == ids


# Field → the JSON types that it takes; everything else must be refused by name.
SHARED = {
    "model": "string", "max_tokens": "integer", "min_tokens": "integer", "temperature": "number",
    "top_p": "number", "top_k": "integer", "min_p": "number", "typical_p": "number", "n": "integer",
    "best_of": "integer", "use_beam_search": "boolean", "length_penalty": "number",
    "seed": "integer", "stop": "string array", "stop_token_ids": "array",
    "include_stop_str_in_output": "boolean", "ignore_eos": "boolean",
    "frequency_penalty": "number", "presence_penalty": "number", "repetition_penalty": "number",
    "logit_bias": "object", "bad_words": "array", "allowed_token_ids": "array",
    "prompt_logprobs": "integer", "skip_special_tokens": "boolean", "return_token_ids": "boolean",
    "response_format": "object", "structured_outputs": "object", "priority": "integer",
    "cache_salt": "string", "request_id": "string", "truncate_prompt_tokens": "integer",
    "timeout": "number", "stream": "boolean", "stream_options": "object", "user": "string"}
FIELDS = [(COMPLETION, name, types) for name, types in {
    **SHARED, "prompt": "string array", "logprobs": "integer", "echo": "boolean",
    "suffix": "string", "add_special_tokens": "boolean"}.items()]
FIELDS += [(CHAT, name, types) for name, types in {
    **SHARED, "messages": "array", "logprobs": "boolean", "top_logprobs": "integer",
    "max_completion_tokens": "integer", "tools": "array", "tool_choice": "string object",
    "chat_template": "string", "chat_template_kwargs": "object",
    "add_generation_prompt": "boolean"}.items()]
FIELDS += [("/tokenize", "prompt", "string"), ("/tokenize", "messages", "array"),
           ("/tokenize", "add_special_tokens", "boolean"), ("/detokenize", "tokens", "array")]
VALUES = {"string": CANARY, "integer": 5, "number": 1.5, "boolean": True, "array": [], "object": {}}


class TestTypes:
    @pytest.mark.parametrize("path, name, types", FIELDS,
                             ids=[f"{path}:{name}" for path, name, _ in FIELDS])
    def test_wrong_type_names_the_field(self, rest, path, name, types):
        base = {COMPLETION: HELLO, CHAT: HI, "/tokenize": {}, "/detokenize": {}}[path]
        allowed = types.split()
        if "number" in allowed:
            allowed.append("integer")
        for kind, value in VALUES.items():
            if kind not in allowed:
                refused(rest, path, {**base, name: value}, param=name)

    @pytest.mark.parametrize("body, param", [
        ({"prompt": [1, "a"]}, "prompt[1]"), ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1.5]}, "prompt[0]"), ({"prompt": [[1], [2.5]]}, "prompt[1][0]"),
        ({"prompt": [True]}, "prompt[0]"), ({"prompt": [None]}, "prompt[0]"),
        ({"prompt": [{}]}, "prompt[0]"), ({"prompt": [[[1]]]}, "prompt[0][0]"),
        ({"prompt": "x", "stop": [1]}, "stop[0]"),
        ({"prompt": "x", "stop_token_ids": ["1"]}, "stop_token_ids[0]"),
        ({"prompt": "x", "logit_bias": {"1": "2"}}, "logit_bias.1"),
        ({"prompt": "x", "stream_options": {"include_usage": 1}, "stream": True},
         "stream_options.include_usage")])
    def test_inside_of_completions(self, rest, body, param):
        refused(rest, COMPLETION, body, param)

    @pytest.mark.parametrize("messages, param", [
        ([], "messages"), ([1], "messages[0]"), ([USER, []], "messages[1]"),
        ([{"content": "x"}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": 5, "content": "x"}], "messages[0].role"),
        ([{"role": CANARY, "content": "x"}], "messages[0].role"),
        ([{"role": "r" * (1 << 20), "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}],
         "messages[0].content[0].text"),
        ([{"role": "assistant", "content": None, "tool_calls": [1]}],
         "messages[0].tool_calls[0]"),
        ([USER] * 4097, "messages")])
    def test_inside_of_messages(self, rest, messages, param):
        refused(rest, CHAT, {"messages": messages, "max_tokens": 1}, param)

    @pytest.mark.parametrize("part", [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}}])
    def test_content_that_is_not_text(self, rest, part):
        refused(rest, CHAT, {"messages": [{"role": "user", "content": [part]}]},
                "messages[0].content[0].type")

    def test_null_is_the_default(self, rest):
        names = [name for path, name, _ in FIELDS if path == COMPLETION and name not in HELLO]
        plain = rest.complete(**HELLO, temperature=0)
        nulls = {name: None for name in names if name != "temperature"}
        assert rest.complete(**HELLO, temperature=0, **nulls)["choices"] == plain["choices"]
