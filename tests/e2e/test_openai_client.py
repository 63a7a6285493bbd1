"""The official openai package against a running server."""

import asyncio

import openai
import pytest

from support.rest import Rest

PROMPT = "Once upon a time, there was a"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture(scope="module")
def story(client, model_name):
    """Greedy text with its tokens: what the stop tests cut."""
    answer = client.completions.create(
        model=model_name, prompt=PROMPT, max_tokens=48, temperature=0, logprobs=1)
    return answer.choices[0]


class TestModels:
    def test_lists_the_model(self, client, model_name):
        models = client.models.list().data
        assert [m.id for m in models] == [model_name]
        assert models[0].object == "model"
        assert models[0].max_model_len == 2048

    def test_retrieves_the_model(self, client, model_name):
        assert client.models.retrieve(model_name).id == model_name

    def test_unknown_model_is_not_found(self, client):
        with pytest.raises(openai.NotFoundError) as error:
            client.models.retrieve("nothing-like-it")
        assert error.value.code == "model_not_found"


class TestChat:
    def test_answers(self, client, model_name):
        answer = client.chat.completions.create(
            model=model_name, messages=QUESTION, temperature=0, max_completion_tokens=40)
        assert answer.object == "chat.completion"
        assert answer.choices[0].message.role == "assistant"
        assert "Paris" in answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        usage = answer.usage
        assert 0 < usage.completion_tokens <= 40
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    def test_stream_is_the_answer_in_pieces(self, client, model_name):
        args = dict(model=model_name, messages=QUESTION, temperature=0, max_tokens=40)
        whole = client.chat.completions.create(**args)
        chunks = list(client.chat.completions.create(
            **args, stream=True, stream_options={"include_usage": True}))
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].object == "chat.completion.chunk"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert all(c.choices[0].delta.role is None for c in chunks[1:-1])
        text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
        assert text == whole.choices[0].message.content
        reasons = [c.choices[0].finish_reason for c in chunks[:-1]]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert set(reasons[:-1]) == {None}
        # The usage comes on a chunk of its own, and on no other.
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
        assert all(c.usage is None for c in chunks[:-1])

    def test_stream_has_several_chunks_and_ends_with_done(self, rest):
        stream = rest.stream("/v1/chat/completions",
                             {"messages": QUESTION, "temperature": 0, "max_tokens": 20})
        assert len(list(stream)) >= 3
        assert stream.done

    def test_continuous_usage_counts_up(self, rest):
        stream = rest.stream("/v1/chat/completions", {
            "messages": QUESTION, "temperature": 0, "max_tokens": 8,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
        counts = [event["usage"]["completion_tokens"] for event in stream]
        assert counts == sorted(counts) and counts[-1] <= 8 and counts[0] >= 1

    def test_remembers_the_conversation(self, client, model_name):
        turns = [{"role": "system", "content": "You are a helpful assistant."},
                 {"role": "user", "content": "My name is Zebedee. Please remember it."},
                 {"role": "assistant", "content": "Nice to meet you, Zebedee!"},
                 {"role": "user", "content": "What is my name?"}]
        answer = client.chat.completions.create(
            model=model_name, messages=turns, temperature=0, max_tokens=30)
        assert "Zebedee" in answer.choices[0].message.content

    def test_logprobs_spell_the_answer(self, client, model_name):
        answer = client.chat.completions.create(
            model=model_name, messages=QUESTION, temperature=0, max_tokens=12, logprobs=True,
            top_logprobs=4)
        choice = answer.choices[0]
        content = choice.logprobs.content
        shown = [t for t in content if t.token != "<|im_end|>"]
        assert b"".join(bytes(t.bytes) for t in shown).decode() == choice.message.content
        for token in content:
            assert token.logprob <= 0
            best = [t.logprob for t in token.top_logprobs]
            assert len(best) == 4 and best == sorted(best, reverse=True)
            # Greedy takes the likeliest.
            assert token.top_logprobs[0].token == token.token
            assert token.top_logprobs[0].logprob == token.logprob


class TestCompletions:
    def test_max_tokens(self, client, model_name):
        answer = client.completions.create(
            model=model_name, prompt=PROMPT, max_tokens=5, temperature=0)
        assert answer.object == "text_completion"
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5

    def test_default_is_16_tokens(self, client, model_name):
        answer = client.completions.create(model=model_name, prompt=PROMPT, temperature=0)
        assert answer.usage.completion_tokens == 16

    def test_n_gives_different_choices_and_the_same_ones_again(self, client, model_name):
        def ask(seed):
            answer = client.completions.create(
                model=model_name, prompt=PROMPT, max_tokens=20, temperature=1, n=2, seed=seed)
            assert [c.index for c in answer.choices] == [0, 1]
            assert answer.usage.completion_tokens <= 40
            return [c.text for c in answer.choices]

        first = ask(7)
        assert first[0] != first[1]
        assert ask(7) == first
        assert ask(8) != first

    def test_without_a_seed_answers_differ(self, client, model_name):
        texts = {client.completions.create(model=model_name, prompt=PROMPT, max_tokens=24,
                                           temperature=1).choices[0].text for _ in range(3)}
        assert len(texts) > 1

    def test_several_prompts_in_one_request(self, client, model_name):
        prompts = [PROMPT, "The capital of France is", "1, 2, 3, 4,"]
        both = client.completions.create(
            model=model_name, prompt=prompts, max_tokens=8, temperature=0)
        assert [c.index for c in both.choices] == [0, 1, 2]
        alone = [client.completions.create(model=model_name, prompt=p, max_tokens=8, temperature=0)
                 for p in prompts]
        assert [c.text for c in both.choices] == [a.choices[0].text for a in alone]
        assert both.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)

    def test_logprobs(self, client, model_name):
        choice = client.completions.create(
            model=model_name, prompt=PROMPT, max_tokens=12, temperature=0, logprobs=3).choices[0]
        logprobs = choice.logprobs
        assert "".join(logprobs.tokens) == choice.text
        assert logprobs.text_offset == [len("".join(logprobs.tokens[:i])) for i in range(12)]
        for token, value, best in zip(
                logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
            assert len(best) == 3
            assert value <= 0 and value == best[token] == max(best.values())

    def test_echo_puts_the_prompt_first(self, client, model_name):
        choice = client.completions.create(
            model=model_name, prompt=PROMPT, max_tokens=4, temperature=0, echo=True,
            logprobs=0).choices[0]
        assert choice.text.startswith(PROMPT)
        assert "".join(choice.logprobs.tokens) == choice.text
        assert choice.logprobs.token_logprobs[0] is None
        assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])

    def test_token_ids_in_and_out(self, rest):
        ids = rest.tokenize(prompt=PROMPT)
        by_text = rest.complete(
            prompt=PROMPT, max_tokens=6, temperature=0, return_token_ids=True)
        by_ids = rest.complete(prompt=ids, max_tokens=6, temperature=0, return_token_ids=True)
        assert by_ids["choices"] == by_text["choices"]
        assert by_ids["prompt_token_ids"] == ids
        decoded = rest.ok("/detokenize", {"tokens": by_ids["choices"][0]["token_ids"]})
        assert decoded["prompt"] == by_ids["choices"][0]["text"]


class TestStop:
    """Stop texts cut from what the model says anyway."""

    def stops(self, story):
        tokens = story.logprobs.tokens
        # Inside a token, a whole token, and the last of one token with the first of the next.
        yield tokens[9].strip()[1:3] or tokens[9]
        yield tokens[14]
        for i in range(4, len(tokens) - 1):
            if len(tokens[i].strip()) > 2:
                yield tokens[i][-2:] + tokens[i + 1][:2]
                yield "".join(tokens[i:i + 4])[1:-1]
                break

    def test_text_ends_before_the_stop(self, client, model_name, story):
        for stop in self.stops(story):
            choice = client.completions.create(
                model=model_name, prompt=PROMPT, max_tokens=48, temperature=0,
                stop=[stop, "never said"]).choices[0]
            assert choice.text == story.text[:story.text.index(stop)], stop
            assert choice.finish_reason == "stop"
            assert choice.stop_reason == stop

    def test_stop_can_stay(self, client, model_name, story):
        for stop in self.stops(story):
            choice = client.completions.create(
                model=model_name, prompt=PROMPT, max_tokens=48, temperature=0, stop=stop,
                extra_body={"include_stop_str_in_output": True}).choices[0]
            assert choice.text == story.text[:story.text.index(stop) + len(stop)], stop

    def test_stream_never_shows_a_part_of_the_stop(self, client, model_name, story):
        for stop in self.stops(story):
            text = ""
            wanted = story.text[:story.text.index(stop)]
            for chunk in client.completions.create(
                    model=model_name, prompt=PROMPT, max_tokens=48, temperature=0, stop=stop,
                    stream=True):
                text += chunk.choices[0].text
                assert wanted.startswith(text), stop
            assert text == wanted

    def test_stop_token_id(self, client, model_name, story):
        answer = client.completions.create(
            model=model_name, prompt=PROMPT, max_tokens=48, temperature=0,
            extra_body={"return_token_ids": True})
        ids = answer.choices[0].token_ids
        choice = client.completions.create(
            model=model_name, prompt=PROMPT, max_tokens=48, temperature=0,
            extra_body={"return_token_ids": True, "stop_token_ids": [ids[10]]}).choices[0]
        assert choice.token_ids == ids[:ids.index(ids[10]) + 1]
        assert choice.finish_reason == "stop"
        assert choice.stop_reason == ids[10]


class TestSampling:
    def test_logit_bias_forces_and_forbids(self, rest):
        free = rest.complete(prompt=PROMPT, max_tokens=1, temperature=0, return_token_ids=True)
        best = free["choices"][0]["token_ids"][0]
        other = rest.complete(prompt=PROMPT, max_tokens=1, temperature=0, return_token_ids=True,
                              logit_bias={str(best): -100})
        assert other["choices"][0]["token_ids"][0] != best
        forced = rest.complete(prompt=PROMPT, max_tokens=3, temperature=0, return_token_ids=True,
                               logit_bias={"1000": 100})
        assert forced["choices"][0]["token_ids"] == [1000] * 3

    def test_allowed_token_ids(self, rest):
        answer = rest.complete(prompt=PROMPT, max_tokens=16, temperature=1, seed=3, ignore_eos=True,
                               return_token_ids=True, allowed_token_ids=[28, 30, 504])
        assert set(answer["choices"][0]["token_ids"]) <= {28, 30, 504}

    def test_top_k_1_is_greedy(self, rest):
        args = dict(prompt=PROMPT, max_tokens=12, return_token_ids=True)
        assert (rest.complete(**args, temperature=1, top_k=1)["choices"]
                == rest.complete(**args, temperature=0)["choices"])

    def test_min_tokens_holds_back_the_end(self, client, model_name):
        answer = client.chat.completions.create(
            model=model_name, messages=QUESTION, temperature=0, max_tokens=40,
            extra_body={"min_tokens": 30})
        assert answer.usage.completion_tokens >= 30


class TestErrors:
    def test_unknown_model(self, client):
        with pytest.raises(openai.NotFoundError) as error:
            client.chat.completions.create(model="nothing-like-it", messages=QUESTION)
        assert error.value.param == "model"

    def test_bad_value_names_the_field(self, client, model_name):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=model_name, messages=QUESTION, temperature=-1)
        assert error.value.param == "temperature"

    def test_unknown_field_is_named(self, client, model_name):
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=model_name, prompt="x", extra_body={"tempature": 1})
        assert error.value.param == "tempature"

    def test_what_is_not_built_is_refused(self, client, model_name):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model=model_name, messages=QUESTION, tools=[tool])
        assert error.value.param == "tools"
        with pytest.raises(openai.APIStatusError) as error:
            client.embeddings.create(model=model_name, input="x")
        assert error.value.status_code == 501

    def test_context_length(self, client, model_name):
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model=model_name, prompt="word " * 4000)
        assert error.value.code == "context_length_exceeded"
        assert error.value.param == "prompt"

    def test_error_before_the_first_byte_of_a_stream(self, client, model_name):
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=model_name, prompt="x", top_p=2, stream=True)

    def test_deadline(self, rest):
        answer = rest.post("/v1/completions", {
            "prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True, "timeout": 0.2})
        assert answer.status == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"


class TestManyAtOnce:
    def test_64_streams_equal_the_same_requests_alone(self, cluster, client, model_name):
        # Eight kinds of request: greedy and sampled, with shared and own beginnings.
        kinds = [dict(model=model_name, prompt=f"{PROMPT} {word}", max_tokens=20,
                      temperature=temperature, seed=seed, logprobs=1)
                 for seed, word in enumerate(("small", "brave", "tired", "green"))
                 for temperature in (0, 0.9)]

        def spelled(choices):
            return [(token, value) for c in choices if c.logprobs
                    for token, value in zip(c.logprobs.tokens, c.logprobs.token_logprobs)]

        alone = [spelled(client.completions.create(**kind).choices) for kind in kinds]

        async def stream(async_client, kind):
            chunks = await async_client.completions.create(**kind, stream=True)
            return spelled([chunk.choices[0] async for chunk in chunks])

        async def all_streams():
            async with openai.AsyncOpenAI(base_url=cluster.url + "/v1", api_key="none",
                                          max_retries=0, timeout=600) as async_client:
                return await asyncio.gather(
                    *(stream(async_client, kinds[i % len(kinds)]) for i in range(64)))

        together = asyncio.run(all_streams())
        wrong = [i for i in range(64) if together[i] != alone[i % len(kinds)]]
        assert wrong == []


class TestCancel:
    LONG = {"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True, "temperature": 0}

    def test_closed_stream_ends_on_the_worker(self, cluster, client, model_name, idle):
        stream = client.completions.create(
            model=model_name, prompt=PROMPT, max_tokens=1900, temperature=0, stream=True,
            extra_body={"ignore_eos": True})
        for _, _ in zip(range(3), stream):
            pass
        stream.close()
        idle()

    def test_client_that_leaves_before_the_answer(self, cluster, idle):
        stream = Rest(cluster.port).stream("/v1/completions", self.LONG)
        next(stream)
        assert cluster.running() <= 1
        stream.close()
        idle()

    def test_many_that_leave_at_once(self, cluster, idle):
        streams = [Rest(cluster.port).stream("/v1/completions", self.LONG) for _ in range(16)]
        for stream in streams:
            next(stream)
        for stream in streams:
            stream.close()
        idle()
