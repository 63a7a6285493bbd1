"""Steady load of mixed requests, each answer compared with the undisturbed one: 16 streams at 0.6 of
what they could take, over both protocols."""

import random
import threading
import time
from dataclasses import dataclass, field

import grpc

from support import answers
from support.offline import generate
from support.processes import eventually
from support.rest import Rest

NUM_STREAMS = 16
SHARE = 0.6  # of its time each stream is being answered; then it rests
MAX_REST_SECONDS = 3

LONG_PROMPT, LONG_ANSWER = -2, -1  # what of requests() is not part of the load

TIDE = "The tide comes in, the tide goes out, and nobody asks it why. "


def requests():
    """What is asked: greedy and sampled, penalties, stop texts, log-probabilities, several choices,
    long prompts. No two have the same prompt."""
    greedy = dict(temperature=0)

    def sampled(seed, **more):
        return dict(temperature=0.9, seed=seed, **more)

    completions = [
        dict(greedy, max_tokens=60, ignore_eos=True, logprobs=1),
        dict(sampled(1, top_p=0.95), max_tokens=60, ignore_eos=True, logprobs=0),
        dict(sampled(2, top_k=40, min_p=0.02), max_tokens=50, frequency_penalty=0.7,
             presence_penalty=0.4),
        dict(greedy, max_tokens=50, repetition_penalty=1.3, ignore_eos=True, logprobs=3),
        dict(sampled(3), max_tokens=70, min_tokens=25, stop=[".", "?"], logprobs=1),
        dict(greedy, max_tokens=70, min_tokens=20, stop=[" the ", " and the"],
             include_stop_str_in_output=True),
        dict(sampled(4), max_tokens=40, n=3, ignore_eos=True, logprobs=1),
        dict(sampled(5, top_p=0.8), max_tokens=40, n=2, logit_bias={"28": -100}),
        dict(greedy, max_tokens=40, echo=True, logprobs=2, ignore_eos=True),
        dict(sampled(6), max_tokens=80, ignore_eos=True),
    ]
    chats = [
        dict(greedy, max_tokens=50),
        dict(sampled(7), max_tokens=60, logprobs=True, top_logprobs=2, ignore_eos=True),
        dict(sampled(8, top_p=0.9), max_tokens=40, n=2, presence_penalty=0.5),
        dict(greedy, max_tokens=60, min_tokens=20, stop=["\n"], logprobs=True),
    ]
    found = [dict(body, prompt=f"Letter {i}. My dear friend, the rain has not stopped since you left,")
             for i, body in enumerate(completions)]
    found += [dict(body, messages=[{"role": "user", "content": f"Tell me {i + 3} things about rain."}])
              for i, body in enumerate(chats)]
    found.append(dict(greedy, prompt=f"{TIDE * 20}Page 1:", max_tokens=40, ignore_eos=True, logprobs=1))
    found.append(dict(sampled(9), prompt=f"Page 2. {TIDE * 30}", max_tokens=30, ignore_eos=True))
    found.append(dict(greedy, prompt=f"Page 3. {TIDE * 110}", max_tokens=20, ignore_eos=True))
    found.append(dict(sampled(10), prompt="It was a long winter, and", max_tokens=600, ignore_eos=True,
                      logprobs=1))
    return [dict(body, return_token_ids=True) for body in found]


@dataclass
class Choice:
    text: str = ""
    ids: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)
    finish: tuple = None  # reason, and the stop text or id


@dataclass
class Said:
    """One whole answer, in a form in which "the same" means the same bits."""
    choices: dict = field(default_factory=dict)
    usage: tuple = None  # tokens of prompt, answer, both

    def choice(self, index):
        return self.choices.setdefault(index, Choice())

    @property
    def num_tokens(self):
        return sum(len(choice.ids) for choice in self.choices.values())

    def is_beginning_of(self, whole):
        return all(index in whole.choices and
                   whole.choices[index].text.startswith(said.text) and
                   whole.choices[index].ids[:len(said.ids)] == said.ids and
                   whole.choices[index].logprobs[:len(said.logprobs)] == said.logprobs
                   for index, said in self.choices.items())


def _usage(usage):
    return tuple(usage[f"{kind}_tokens"] for kind in ("prompt", "completion", "total"))


def _logprobs(logprobs):
    """One item per token, with everything that was said of it."""
    if not logprobs:
        return []
    if "content" in logprobs:
        return list(logprobs["content"])
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"],
                    logprobs["top_logprobs"] or [None] * len(logprobs["tokens"])))


def from_http(answer):
    """A whole answer of HTTP, or an output line of `generate`."""
    said = Said(usage=_usage(answer["usage"]))
    for choice in answer["choices"]:
        said.choices[choice["index"]] = Choice(
            choice["message"]["content"] if "message" in choice else choice["text"],
            choice["token_ids"], _logprobs(choice["logprobs"]),
            (choice["finish_reason"], choice["stop_reason"]))
    return said


def add_event(said, event):
    if event.get("usage"):
        said.usage = _usage(event["usage"])
    for part in event["choices"]:
        choice = said.choice(part["index"])
        choice.text += part["text"] if "text" in part else part["delta"].get("content") or ""
        choice.ids += part.get("token_ids") or []
        choice.logprobs += _logprobs(part["logprobs"])
        if part["finish_reason"]:
            assert choice.finish is None, "two ends of one choice"
            choice.finish = (part["finish_reason"], part["stop_reason"])


def add_chunk(said, chunk):
    """A gRPC chunk. Its log-probabilities are floats, not their decimal text."""
    if chunk.HasField("usage"):
        said.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens,
                      chunk.usage.total_tokens)
    choice = said.choice(chunk.choice_index)
    choice.text += chunk.content_delta if hasattr(chunk, "content_delta") else chunk.text
    choice.ids += chunk.token_ids
    choice.logprobs += [answers.bits(t.logprob) for t in chunk.logprobs]
    if chunk.finish_reason:
        assert choice.finish is None, "two ends of one choice"
        choice.finish = {1: "stop", 2: "length"}[chunk.finish_reason]


def as_grpc(said, body):
    """What gRPC says where HTTP says `said`."""
    echoed = body["prompt"] if body.get("echo") else ""
    choices = {}
    for index, choice in said.choices.items():
        logprobs = [t["logprob"] if isinstance(t, dict) else t[1] for t in choice.logprobs]
        if echoed:  # HTTP shows the prompt's tokens among the others
            logprobs = logprobs[-len(choice.ids):]
        choices[index] = Choice(choice.text, choice.ids, [answers.bits(p) for p in logprobs],
                                choice.finish[0])
    return Said(choices, said.usage)


def grpc_request(pb, body, request_id):
    fields = dict(body)
    if "messages" in fields:
        request = pb.ChatRequest(logprobs=fields.pop("logprobs", False))
        for message in fields.pop("messages"):
            request.messages.add(**message)
    else:
        request = pb.GenerateRequest(text=fields.pop("prompt"), echo=fields.pop("echo", False))
    request.options.request_id = request_id
    request.sampling.stop.extend(fields.pop("stop", []))
    for token, bias in fields.pop("logit_bias", {}).items():
        request.sampling.logit_bias[int(token)] = bias
    for name, value in fields.items():
        setattr(request.sampling, name, value)
    return request


class Undisturbed:
    """The answers of a process that nobody disturbs."""

    def __init__(self):
        self.bodies = requests()
        self._http = [from_http(answer) for answer in generate(self.bodies)]
        self._grpc = [as_grpc(*pair) for pair in zip(self._http, self.bodies)]

    def answer(self, index, is_http):
        return (self._http if is_http else self._grpc)[index]


class Ask:
    """One request and what has come of it so far."""

    def __init__(self, request_id, index, server, is_http, **more):
        self.id = request_id
        self.more = more     # fields that do not change the answer
        self.index = index
        self.server = server
        self.is_http = is_http
        self.said = Said()
        self.times = []      # of what came, time.time()
        self.error = None    # code of the terminal error
        self.failure = None  # what is no proper end: a broken connection, a second end …
        self.is_over = False

    def run(self, pb, body):
        try:
            if self.is_http:
                self._run_http(body)
            else:
                self._run_grpc(pb, body)
        except Exception as failure:  # a broken connection, or a failed assertion: judged later
            self.failure = repr(failure)
        self.is_over = True

    def _run_http(self, body):
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        stream = Rest(self.server.port).stream(
            path, dict(body, request_id=self.id, stream_options={"include_usage": True}))
        if stream.status != 200:
            self.error = stream.refusal()["error"]["code"]
            return
        for event in stream:
            self.times.append(time.time())
            add_event(self.said, event)
        if stream.error:
            self.error = stream.error["code"]
        elif not stream.done:
            self.failure = "the connection ended without [DONE]"

    def _run_grpc(self, pb, body):
        request = grpc_request(pb, body, self.id)
        # A connection of its own, as for HTTP: what becomes of it is this request's business alone.
        with grpc.insecure_channel(self.server.grpc_address,
                                   options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = pb.InferenceStub(channel)
            call = (stub.ChatStream if "messages" in body else stub.GenerateStream)(request)
            try:
                for chunk in call:
                    self.times.append(time.time())
                    add_chunk(self.said, chunk)
            except grpc.RpcError as error:
                codes = [v for k, v in error.trailing_metadata() or () if k == "paceline-error-code"]
                if codes:
                    self.error, = codes
                else:
                    self.failure = f"{error.code()}: {error.details()}"


def wait_for_end(asks, timeout=300):
    eventually(lambda: all(ask.is_over for ask in asks), timeout, "what was hit has ended")


class Load:
    """Asks `servers` from many threads until stop()."""

    def __init__(self, servers, pb, undisturbed, seed=1):
        self._pb = pb
        self._undisturbed = undisturbed
        self._servers = servers
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._live = {}
        self.asked = []
        self._threads = [threading.Thread(target=self._run, args=(i, random.Random(seed * 1000 + i)),
                                          daemon=True) for i in range(NUM_STREAMS)]

    def start(self):
        for thread in self._threads:
            thread.start()
        return self

    def _run(self, number, dice):
        count = 0
        while not self._is_over.is_set():
            # A client whose server is gone asks another one.
            there = [server for server in self._servers if server.popen.poll() is None]
            if not there:
                return
            server = there[number // 2 % len(there)]
            index = dice.randrange(len(self._undisturbed.bodies) + LONG_PROMPT)
            start = time.monotonic()
            self._run_one(number, Ask(f"{number}-{count}", index, server, number % 2 == 0))
            took = time.monotonic() - start
            self._is_over.wait(min(took * (1 / SHARE - 1), MAX_REST_SECONDS) + 0.02)
            count += 1

    def _run_one(self, name, ask):
        with self._lock:
            self._live[name] = ask
            self.asked.append(ask)
        ask.run(self._pb, dict(self._undisturbed.bodies[ask.index], **ask.more))
        with self._lock:
            del self._live[name]

    def ask(self, index, is_http=True, **more):
        """One more request, beside the others."""
        ask = Ask(f"extra-{len(self.asked)}", index, self._servers[0], is_http, **more)
        self._threads.append(threading.Thread(target=self._run_one, args=(ask.id, ask), daemon=True))
        self._threads[-1].start()
        return ask

    def live(self):
        """What is being answered now: the first tokens came, the last ones did not."""
        with self._lock:
            return [ask for ask in self._live.values() if ask.times and not ask.is_over]

    def open(self):
        """What has been asked and has not ended."""
        with self._lock:
            return list(self._live.values())

    def in_the_midst(self):
        """Of the live ones those that have a while to go."""
        return [ask for ask in self.live() if ask.said.num_tokens + 20 <=
                self._undisturbed.answer(ask.index, ask.is_http).num_tokens]

    def wait_until_busy(self, num_streams=8, timeout=120):
        """What is live when at least so many are: a fault then hits something."""
        def look():
            live = self.live()
            return live if len(live) >= num_streams else None
        return eventually(look, timeout, f"{num_streams} streams run at once")

    def stop_asking(self):
        self._is_over.set()

    def stop(self, timeout=300):
        """Waits for the last answers."""
        self.stop_asking()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
        hanging = [ask.id for ask in self._live.values()]
        assert not any(t.is_alive() for t in self._threads), f"without an end: {hanging}"
        return self

    def check(self, errors=(), broken=()):
        """Every answer is whole and, to the bit, the undisturbed one; but one may end with one of
        these `errors`, or with its connection if its server is one of `broken`, after a true
        beginning. Returns the whole ones."""
        whole = []
        for ask in self.asked:
            wanted = self._undisturbed.answer(ask.index, ask.is_http)
            what = f"request {ask.id}: {self._undisturbed.bodies[ask.index]}"
            if ask.failure is not None:
                assert ask.server in broken, f"{what}\n{ask.failure}"
            elif ask.error is not None:
                assert ask.error in errors, f"{what}\n{ask.error}"
            else:
                assert ask.said == wanted, f"{what}\nsaid   {ask.said}\nwanted {wanted}"
                whole.append(ask)
                continue
            assert ask.said.is_beginning_of(wanted), f"{what}\nsaid   {ask.said}\nwanted {wanted}"
        return whole
