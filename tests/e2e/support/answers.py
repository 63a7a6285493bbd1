"""Answers of all interfaces in one form, so that "the same" can be asked bit for bit."""

import struct
from dataclasses import dataclass, field


def bits(number):
    """The bits of a float32, from a printed or a native one."""
    return struct.unpack("<I", struct.pack("<f", float(number)))[0]


@dataclass
class Tokens:
    """One choice: what was generated, with log-probabilities as bits of float32."""
    text: str = ""
    ids: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)
    finish_reason: str = None


def from_choice(choice):
    """A choice of an HTTP answer or of an output line of `generate`."""
    tokens = Tokens(ids=list(choice["token_ids"]), finish_reason=choice["finish_reason"])
    logprobs = choice.get("logprobs")
    if "message" in choice:
        tokens.text = choice["message"]["content"]
        tokens.logprobs = [bits(t["logprob"]) for t in logprobs["content"]] if logprobs else []
    else:
        tokens.text = choice["text"]
        tokens.logprobs = [bits(value) for value in logprobs["token_logprobs"]] if logprobs else []
    return tokens


def from_events(events):
    """The choices of a streamed HTTP answer, by index."""
    choices = {}
    for event in events:
        for choice in event["choices"]:
            tokens = choices.setdefault(choice["index"], Tokens())
            tokens.ids += choice.get("token_ids") or []
            logprobs = choice.get("logprobs")
            if "delta" in choice:
                tokens.text += choice["delta"].get("content") or ""
                if logprobs:
                    tokens.logprobs += [bits(t["logprob"]) for t in logprobs["content"]]
            else:
                tokens.text += choice["text"]
                if logprobs:
                    tokens.logprobs += [bits(value) for value in logprobs["token_logprobs"]]
            if choice["finish_reason"]:
                assert tokens.finish_reason is None, "two ends of one choice"
                tokens.finish_reason = choice["finish_reason"]
    return choices


_FINISH = {1: "stop", 2: "length"}


def from_grpc(choice):
    """A Choice or ChatChoice."""
    text = choice.message.content if hasattr(choice, "message") else choice.text
    return Tokens(text=text, ids=list(choice.token_ids),
                  logprobs=[bits(t.logprob) for t in choice.logprobs],
                  finish_reason=_FINISH.get(choice.finish_reason))


def from_chunks(chunks):
    """The choices of a GenerateStream or ChatStream, by index."""
    choices = {}
    for chunk in chunks:
        tokens = choices.setdefault(chunk.choice_index, Tokens())
        tokens.text += chunk.content_delta if hasattr(chunk, "content_delta") else chunk.text
        tokens.ids += chunk.token_ids
        tokens.logprobs += [bits(t.logprob) for t in chunk.logprobs]
        if chunk.finish_reason:
            tokens.finish_reason = _FINISH.get(chunk.finish_reason)
    return choices
