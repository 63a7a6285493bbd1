"""grpcio against a running server: stubs made from our protos, and stubs found by reflection."""

import json
import os
import time

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

from support import answers
from support.cluster import ROOT
from support.processes import eventually

PROMPT = "Once upon a time, there was a"
QUESTION = "What is the capital of France? Answer in one sentence."
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def trailer(error, name):
    return dict(error.value.trailing_metadata()).get(name)


def greedy(pb, **more):
    return pb.SamplingParams(temperature=0, return_token_ids=True, **more)


def question(pb, **more):
    return pb.ChatRequest(messages=[pb.ChatMessage(role="user", content=QUESTION)],
                          sampling=greedy(pb, max_tokens=24), **more)


class TestGenerate:
    def test_equals_http(self, pb, stub, rest):
        answer = stub.Generate(
            pb.GenerateRequest(text=PROMPT, sampling=greedy(pb, max_tokens=16, logprobs=2)))
        http = rest.complete(prompt=PROMPT, max_tokens=16, temperature=0, return_token_ids=True,
                             logprobs=2)
        assert answers.from_grpc(answer.choices[0]) == answers.from_choice(http["choices"][0])
        assert list(answer.prompt_token_ids) == http["prompt_token_ids"]
        assert answer.usage.prompt_tokens == http["usage"]["prompt_tokens"]
        assert answer.usage.completion_tokens == 16

    def test_stream_is_the_answer_in_pieces(self, pb, stub):
        request = pb.GenerateRequest(
            text=PROMPT, sampling=greedy(pb, max_tokens=16, logprobs=2, n=2))
        whole = stub.Generate(request)
        chunks = list(stub.GenerateStream(request))
        assert len(chunks) > 4
        pieces = answers.from_chunks(chunks)
        assert sorted(pieces) == [0, 1]
        for choice in whole.choices:
            assert pieces[choice.index] == answers.from_grpc(choice)
        assert chunks[-1].HasField("usage")
        assert chunks[-1].usage.completion_tokens == 32
        assert list(chunks[0].prompt_token_ids) == list(whole.prompt_token_ids)

    def test_token_ids_as_prompt(self, pb, stub):
        by_text = stub.Generate(
            pb.GenerateRequest(text=PROMPT, sampling=greedy(pb, max_tokens=4)))
        by_ids = stub.Generate(pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=by_text.prompt_token_ids), sampling=greedy(pb, max_tokens=4)))
        assert list(by_ids.choices[0].token_ids) == list(by_text.choices[0].token_ids)

    def test_prompt_logprobs(self, pb, stub):
        choice = stub.Generate(pb.GenerateRequest(
            text=PROMPT, sampling=greedy(pb, max_tokens=1, prompt_logprobs=2))).choices[0]
        assert choice.prompt_logprobs[0].rank == 0
        for token in choice.prompt_logprobs[1:]:
            assert token.rank >= 1 and token.logprob <= 0 and len(token.top) == 2
            assert (token.rank == 1) == (token.top[0].token_id == token.token_id)

    def test_request_id_comes_back(self, pb, stub):
        request = pb.GenerateRequest(text=PROMPT, sampling=greedy(pb, max_tokens=1),
                                     options=pb.RequestOptions(request_id="my-id-1"))
        answer, call = stub.Generate.with_call(request)
        assert answer.request_id == "my-id-1"
        assert dict(call.initial_metadata())["x-request-id"] == "my-id-1"


class TestChat:
    def test_answers(self, pb, stub):
        answer = stub.Chat(question(pb))
        assert answer.choices[0].message.role == "assistant"
        assert "Paris" in answer.choices[0].message.content
        assert answer.choices[0].finish_reason == pb.FINISH_REASON_STOP

    def test_stream_is_the_answer_in_pieces(self, pb, stub):
        whole = stub.Chat(question(pb, logprobs=True))
        pieces = answers.from_chunks(stub.ChatStream(question(pb, logprobs=True)))
        assert pieces == {0: answers.from_grpc(whole.choices[0])}

    def test_equals_http(self, pb, stub, rest):
        http = rest.chat(messages=[{"role": "user", "content": QUESTION}], temperature=0,
                         max_tokens=24, return_token_ids=True, logprobs=True, top_logprobs=0)
        answer = stub.Chat(question(pb, logprobs=True))
        assert answers.from_grpc(answer.choices[0]) == answers.from_choice(http["choices"][0])


class TestTokens:
    TEXTS = ["Hello, world!", "naïve café — 日本語 🦄👩‍👩‍👧", "  spaces\n\n\ttabs", "a" * 1000]

    @pytest.mark.parametrize("text", TEXTS)
    def test_round_trip(self, pb, stub, text):
        tokens = stub.Tokenize(pb.TokenizeRequest(
            text=text, add_special_tokens=False, return_token_strs=True))
        assert tokens.count == len(tokens.token_ids)
        assert b"".join(tokens.token_strs).decode() == text
        assert stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids)).text == text

    def test_ids_are_those_of_hugging_face(self, pb, stub):
        with open(os.path.join(ROOT, "tests/data/smollm2/tokenizer.jsonl")) as f:
            cases = [json.loads(line) for line in f][::10]
        for case in cases:
            if not case["text"]:
                continue
            tokens = stub.Tokenize(pb.TokenizeRequest(text=case["text"], add_special_tokens=False))
            assert list(tokens.token_ids) == case["ids"], case["text"][:80]

    def test_messages(self, pb, stub):
        ids = stub.Tokenize(pb.TokenizeRequest(
            messages=[pb.ChatMessage(role="user", content=QUESTION)])).token_ids
        assert list(ids) == list(stub.Chat(question(pb)).prompt_token_ids)
        text = stub.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text
        assert f"<|im_start|>user\n{QUESTION}<|im_end|>" in text
        assert text.endswith("<|im_start|>assistant\n")


class TestModels:
    def test_list_and_get(self, pb, stub, model_name):
        models = stub.ListModels(pb.ListModelsRequest()).models
        assert [m.id for m in models] == [model_name]
        model = stub.GetModel(pb.GetModelRequest(id=model_name))
        assert model == models[0]
        assert model.architecture == "llama"
        assert model.quantization == "Q4_1"
        assert model.max_model_len == 2048
        assert model.vocab_size == 49152
        assert model.replicas_ready == 2

    def test_unknown_model(self, pb, stub):
        with pytest.raises(grpc.RpcError) as error:
            stub.GetModel(pb.GetModelRequest(id="nothing-like-it"))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as error:
            stub.Generate(pb.GenerateRequest(model="nothing-like-it", text="x"))
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        assert trailer(error, "paceline-error-param") == "model"

    def test_embed_is_not_built(self, pb, stub):
        with pytest.raises(grpc.RpcError) as error:
            stub.Embed(pb.EmbedRequest(texts=["x"]))
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


class TestEnds:
    def long(self, pb, **options):
        return pb.GenerateRequest(
            text=PROMPT, sampling=greedy(pb, max_tokens=1900, ignore_eos=True),
            options=pb.RequestOptions(**options))

    def test_deadline_of_the_call(self, pb, stub, idle):
        with pytest.raises(grpc.RpcError) as error:
            list(stub.GenerateStream(self.long(pb), timeout=0.4))
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        idle()

    def test_deadline_in_the_request(self, pb, stub, idle):
        start = time.monotonic()
        chunks = stub.GenerateStream(self.long(pb, timeout=0.4))
        with pytest.raises(grpc.RpcError) as error:
            for chunk in chunks:
                assert not chunk.finish_reason
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start > 0.39
        idle()

    def test_cancel(self, pb, stub, idle):
        call = stub.GenerateStream(self.long(pb))
        next(call)
        call.cancel()
        with pytest.raises(grpc.RpcError) as error:
            list(call)
        assert error.value.code() == grpc.StatusCode.CANCELLED
        idle()

    def test_cancel_of_a_unary_call(self, cluster, pb, stub, idle):
        call = stub.Generate.future(self.long(pb))
        eventually(lambda: cluster.running() == 1, 120, "it runs")
        call.cancel()
        idle()

    def test_channel_that_vanishes(self, cluster, pb, idle):
        with grpc.insecure_channel(cluster.grpc_address) as channel:
            call = pb.InferenceStub(channel).GenerateStream(self.long(pb))
            next(call)
        idle()


class TestErrors:
    def test_names_the_field(self, pb, stub):
        with pytest.raises(grpc.RpcError) as error:
            stub.Generate(pb.GenerateRequest(text="x", sampling=pb.SamplingParams(top_p=2)))
        assert error.value.code() == INVALID
        assert trailer(error, "paceline-error-param") == "top_p"

    def test_stream_error_names_the_field(self, pb, stub):
        with pytest.raises(grpc.RpcError) as error:
            list(stub.ChatStream(pb.ChatRequest(messages=[pb.ChatMessage(role="alien")])))
        assert error.value.code() == INVALID
        assert trailer(error, "paceline-error-param") == "messages[0].role"

    def test_context_length(self, pb, stub):
        with pytest.raises(grpc.RpcError) as error:
            stub.Generate(pb.GenerateRequest(text="word " * 4000))
        assert error.value.code() == INVALID
        assert trailer(error, "paceline-error-code") == "context_length_exceeded"
        assert trailer(error, "paceline-error-param") == "prompt"


class TestDiscovery:
    def test_health(self, channel):
        check = channel.unary_unary("/grpc.health.v1.Health/Check")  # bytes in, bytes out
        serving = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
        assert check(b"") == serving
        name = b"paceline.v1.Inference"
        assert check(b"\x0a" + bytes([len(name)]) + name) == serving
        with pytest.raises(grpc.RpcError) as error:
            check(b"\x0a\x01x")
        assert error.value.code() == grpc.StatusCode.NOT_FOUND

    def test_reflection_is_enough_to_call(self, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "paceline.v1.Inference" in database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        method = pool.FindServiceByName("paceline.v1.Inference").FindMethodByName("Generate")
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/paceline.v1.Inference/Generate",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString)
        request = request_class(text="The capital of France is")
        request.sampling.temperature = 0
        request.sampling.max_tokens = 8
        assert "Paris" in call(request).choices[0].text
