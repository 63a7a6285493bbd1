"""A request's tokens and log-probabilities do not depend on what runs beside it, on how it is sent, on
chunking or on the prefix cache: bit for bit, against the same request alone in `generate`."""

import threading

import pytest

from support import answers
from support.offline import generate
from support.rest import Rest

# Long enough for several full blocks of 32 tokens in the prefix cache.
PROMPT = (
    "The history of the lighthouse begins on a rocky island in the north. For many years the keeper "
    "and his daughter lit the lamp every evening, wrote down the weather and the names of the ships, "
    "and waited for the small boat that brought oil, bread and letters. One winter the sea froze, no "
    "boat came for nine weeks, and the keeper began to write a letter of his own. It said:")
KINDS = {
    "greedy": dict(temperature=0),
    "sampled": dict(temperature=0.9, seed=20240607),
    "filtered": dict(temperature=1.2, top_p=0.9, top_k=50, min_p=0.02, seed=11,
                     repetition_penalty=1.1, frequency_penalty=0.3, presence_penalty=0.2,
                     logit_bias={"28": -1.5}),
}


def completion(kind, **more):
    return dict(prompt=PROMPT, max_tokens=40, logprobs=3, ignore_eos=True, return_token_ids=True,
                **KINDS[kind], **more)


@pytest.fixture(scope="module")
def alone():
    """Each kind of request in a process of its own."""
    return {kind: generate([completion(kind)])[0]["choices"][0] for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


class TestServer:
    def test_cold_and_from_the_prefix_cache(self, alone, kind, rest):
        # Its own salt, so that the first one finds nothing.
        request = completion(kind, cache_salt=f"cold-{kind}")
        cold = rest.complete(**request)
        assert cold["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        warm = rest.complete(**request)
        cached = warm["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= 64 and cached % 32 == 0
        assert cold["choices"] == [alone[kind]]
        assert warm["choices"] == [alone[kind]]

    def test_streamed(self, alone, kind, rest):
        stream = rest.stream("/v1/completions", completion(kind))
        pieces = answers.from_events(stream)
        assert stream.done
        assert pieces == {0: answers.from_choice(alone[kind])}

    def test_grpc(self, alone, kind, pb, stub):
        request = pb.GenerateRequest(text=PROMPT)
        fields = dict(completion(kind), logit_bias=None, prompt=None)
        for name, value in fields.items():
            if value is not None:
                setattr(request.sampling, name, value)
        for token, bias in KINDS[kind].get("logit_bias", {}).items():
            request.sampling.logit_bias[int(token)] = bias
        wanted = answers.from_choice(alone[kind])
        assert answers.from_grpc(stub.Generate(request).choices[0]) == wanted
        assert answers.from_chunks(stub.GenerateStream(request)) == {0: wanted}

    def test_among_32_others(self, alone, cluster, kind):
        others = [Rest(cluster.port).stream(
            "/v1/completions",
            {"prompt": f"Story number {i}: " + "and then " * (i % 7), "max_tokens": 1900,
             "ignore_eos": True, "temperature": 1, "seed": i}) for i in range(32)]
        stop = threading.Event()

        def read(stream):
            for _ in stream:
                if stop.is_set():
                    break

        readers = [threading.Thread(target=read, args=(stream,)) for stream in others]
        try:
            for stream in others:
                next(stream)  # it runs
            for reader in readers:
                reader.start()
            request = completion(kind, cache_salt=f"crowd-{kind}")
            assert Rest(cluster.port).complete(**request)["choices"] == [alone[kind]]
            # The crowd was there all the time.
            assert not any(stream.done or stream.error for stream in others)
        finally:
            stop.set()
            for reader in readers:
                reader.join(120)
            for stream in others:
                stream.close()
            cluster.wait_idle()

    def test_n_choices_do_not_depend_on_their_number(self, rest):
        request = dict(prompt=PROMPT, max_tokens=16, temperature=1, seed=5, logprobs=1,
                       return_token_ids=True)
        three = rest.complete(**request, n=3)["choices"]
        two = rest.complete(**request, n=2)["choices"]
        one = rest.complete(**request)["choices"]
        assert three[:2] == two and two[:1] == one


class TestGenerate:
    def test_among_32_others(self, alone):
        others = [{"prompt": f"Story number {i}: " + "and then " * (i % 7), "max_tokens": 60,
                   "temperature": 1, "seed": i} for i in range(32)]
        requests = [completion(kind) for kind in KINDS]
        batch = generate(others[:16] + requests + others[16:])
        for kind, answer in zip(KINDS, batch[16:]):
            assert answer["choices"] == [alone[kind]], kind

    def test_chat_equals_the_server(self, rest):
        request = {"messages": [{"role": "user", "content": "Write a short poem about rain."}],
                   "max_tokens": 40, "temperature": 0.7, "seed": 99, "logprobs": True,
                   "top_logprobs": 5, "return_token_ids": True}
        assert generate([request])[0]["choices"] == rest.chat(**request)["choices"]

    def test_without_prefix_cache_and_with_other_thread_counts(self, alone):
        for options in (["--no-enable-prefix-caching"], ["--threads", 1], ["--threads", 2]):
            batch = generate([completion(kind) for kind in KINDS], *options)
            for kind, answer in zip(KINDS, batch):
                assert answer["choices"] == [alone[kind]], (kind, options)

    @pytest.mark.parametrize("option", [("--compute-dtype", "auto"), ("--compute-dtype", "float32"),
                                        ("--kv-cache-dtype", "int8")])
    def test_chunk_budgets(self, option):
        # About 700 tokens: prefilled whole, or in more than 40 chunks.
        prompt = " ".join([PROMPT] * 7)
        requests = [
            dict(prompt=prompt, max_tokens=12, temperature=0, logprobs=3, return_token_ids=True),
            dict(prompt=prompt[300:], max_tokens=1, temperature=0, prompt_logprobs=1),
            dict(prompt=prompt[:900], max_tokens=12, temperature=0.8, seed=3, logprobs=1,
                 return_token_ids=True)]
        if "float32" in option:  # slow
            requests = requests[:1]
        results = {}
        for budget in (16, 64, 512):
            batch = generate(requests, "--max-num-batched-tokens", budget, "--max-num-seqs", 16,
                             *option)
            results[budget] = [answer["choices"] for answer in batch]
        assert len(results[512][0][0]["token_ids"]) == 12
        assert results[16] == results[512]
        assert results[64] == results[512]
