"""Mixed load over HTTP: closed-loop users, Paceline beside llama-server on one machine.

Every user asks for one streamed completion after another: a prompt of --prompt-tokens token ids that nobody else
has, --output-tokens tokens of answer, greedy, end of sequence ignored (a user's first answer is of any length up to
that, so that users do not go in step). In each round every server is started anew,
loaded for --warm-up seconds, then measured for --seconds; the order alternates. The client (this process, raw
asyncio) is the same for all and shares the --cores with the server. Seconds in which other work took more than
--others of a core are left out of every figure, and the measurement goes on, up to --patience times as long, until
it has its seconds. Printed with them: the cores that server and client used.

  .venv/bin/python tests/bench/http_load.py --build .cache/llama.cpp --json http_load.json

Printed: output tokens per second; time to first token (of answers that began in the window: a user who still waits
when it ends does not count, which favours the slower server; seconds that others took are in it); gaps between the events of one stream. Ratios are
medians over rounds, with their range. llama-server is built natively from the source package of vs_llama_cpp.py and
runs with -np 32, -t as many as there are cores, continuous batching, its own choice of flash attention, and neither
the log nor the copying of prompts to RAM, which only cost it time here.
"""

import argparse
import asyncio
import json
import math
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from vs_llama_cpp import ROOT, build_llama_cpp

WORDS = pathlib.Path("/usr/share/common-licenses/GPL-3")  # on every Debian machine


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def process_seconds(pid):
    """Processor time that a process and its children have used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return seconds + sum(process_seconds(child) for child in children)


def busy_seconds(cores):
    """Processor time that anything, other virtual machines too, has used on these cores."""
    total = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        fields = line.split()
        if fields[0][3:].isdigit() and int(fields[0][3:]) in cores:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


class Usage:
    """One look at the clocks: wall, all work, server, client."""

    def __init__(self, server):
        self.at = time.monotonic()
        self.busy = busy_seconds(os.sched_getaffinity(0))
        self.server = process_seconds(server.process.pid)
        self.client = time.process_time()


def is_quiet(a, b, args):
    others = (b.busy - a.busy) - (b.server - a.server) - (b.client - a.client)
    return others <= args.others * (b.at - a.at)


class Stream(asyncio.Protocol):
    """One request on a connection of its own; the times at which its events came."""

    def __init__(self, request, done):
        self.request = request
        self.done = done
        self.times = []  # (seconds, tokens)
        self.tail = b""
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = time.monotonic()
        transport.write(self.request)

    def data_received(self, data):
        now = time.monotonic()
        if not self.times and not self.tail and not data.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            self.finish(RuntimeError(data[:500].decode("utf-8", "replace")))
            return
        data = self.tail + data
        tokens = data.count(b'data: {"')
        if tokens:
            self.times.append((now, tokens))
        self.ended = b"data: [DONE]" in data
        self.tail = data[-7:]  # shorter than what is counted
        if self.ended:
            self.finish(None)

    def connection_lost(self, error):
        self.finish(None if self.ended else error or RuntimeError("the server closed the stream"))

    def finish(self, error):
        self.transport.close()
        if not self.done.done():
            self.done.set_result(error)


async def user(port, prompts, first_tokens, output_tokens, streams):
    loop = asyncio.get_running_loop()
    for i, prompt in enumerate(prompts):
        body = json.dumps({"prompt": prompt, "max_tokens": output_tokens if i > 0 else first_tokens, "temperature": 0,
                           "ignore_eos": True, "stream": True}).encode()
        head = (f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        done = loop.create_future()
        stream = Stream(head + body, done)
        streams.append(stream)
        await loop.create_connection(lambda: stream, "127.0.0.1", port)
        error = await done
        if error is not None:
            raise error


async def load(server, prompts, args):
    """All streams of a round, and looks at the clocks once a second of the window."""
    streams = []
    rng = random.Random(2)
    users = [asyncio.create_task(user(server.port, prompts[i::args.users], rng.randint(1, args.output_tokens),
                                      args.output_tokens, streams)) for i in range(args.users)]
    await asyncio.wait(users, timeout=args.warm_up, return_when=asyncio.FIRST_COMPLETED)
    usage, finished, seconds = [Usage(server)], set(), 0
    while not finished and seconds < args.seconds and usage[-1].at < usage[0].at + args.patience * args.seconds:
        finished, _ = await asyncio.wait(users, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        usage.append(Usage(server))
        if is_quiet(*usage[-2:], args):
            seconds += usage[-1].at - usage[-2].at
    for task in users:
        task.cancel()
    await asyncio.gather(*users, return_exceptions=True)
    for stream in streams:
        if hasattr(stream, "transport"):
            stream.transport.abort()
    for task in finished:
        task.result()  # raises what went wrong
        raise RuntimeError("a user ran out of prompts: raise --requests")
    return streams, usage


def percentile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else math.nan


def measure(server, prompts, args):
    streams, usage = asyncio.run(load(server, prompts, args))
    quiet = [(a, b) for a, b in zip(usage, usage[1:]) if is_quiet(a, b, args)]
    if not quiet:
        return None
    seconds = sum(b.at - a.at for a, b in quiet)

    def quiet_part(begin, end):
        """Of these seconds, the share that was quiet."""
        return sum(max(0, min(end, b.at) - max(begin, a.at)) for a, b in quiet) / max(end - begin, 1e-9)

    tokens, ttft, gaps = 0, [], []
    for stream in streams:
        times = [at for at, _ in stream.times]
        tokens += sum(n for at, n in stream.times if quiet_part(at, at + 1e-6) > 0.5)
        if times and quiet_part(times[0], times[0] + 1e-6) > 0.5:
            ttft.append(times[0] - stream.sent)
        gaps += [b - a for a, b in zip(times, times[1:]) if quiet_part(a, b) > 0.9]
    return {"output_tokens_per_s": tokens / seconds, "quiet_seconds": seconds,
            "ttft_p50_ms": 1000 * percentile(ttft, 0.5), "ttft_p99_ms": 1000 * percentile(ttft, 0.99),
            "itl_p50_ms": 1000 * percentile(gaps, 0.5), "itl_p99_ms": 1000 * percentile(gaps, 0.99),
            "server_cores": sum(b.server - a.server for a, b in quiet) / seconds,
            "client_cores": sum(b.client - a.client for a, b in quiet) / seconds}


class Server:
    """A process that answers on `port`, stopped when the block ends."""

    def __init__(self, name, command, port, args):
        self.name, self.command, self.port, self.args = name, command, port, args

    def __enter__(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PACELINE_")}
        log = self.args.log.open("a") if self.args.log else subprocess.DEVNULL
        self.process = subprocess.Popen([*self.args.prefix, *map(str, self.command)], env=environment,
                                        stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            try:
                post(self.port, "/v1/completions", {"prompt": [1], "max_tokens": 1})
                return self
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended with status {self.process.returncode}")
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} is not ready after a minute")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def paceline(args, replicas):
    port = free_port()
    context = args.prompt_tokens + args.output_tokens
    command = [args.paceline, "serve", args.model, "--replicas", replicas, "--threads", args.cores // replicas]
    command += ["--port", port, "--grpc-port", 0, "--operator-port", 0, "--drain-seconds", 0]
    command += ["--kv-cache-memory", f"{2 * args.users * context * 24 // replicas}KiB", "--log-level", "warn"]
    command += ["--lease-ms", 60000]  # a machine with other work may leave a process alone for seconds
    return Server(f"paceline {replicas}x{args.cores // replicas}", command + args.paceline_option, port, args)


def llama_server(args, binaries):
    port = free_port()
    slot = args.prompt_tokens + args.output_tokens + 128
    command = [binaries / "llama-server", "-m", args.model, "-np", 32, "-c", 32 * slot, "-t", args.cores]
    command += ["-tb", args.cores, "--threads-http", args.users + 4, "--cache-ram", 0, "--log-disable"]
    return Server("llama-server", command + ["--host", "127.0.0.1", "--port", port], port, args)


def make_prompts(args):
    """Token ids of English words in no order, one list a request; the same in every round."""
    tokenized = subprocess.run([args.paceline, "tokenize", args.model, "--jsonl"], check=True, capture_output=True,
                               text=True, input=json.dumps({"text": WORDS.read_text()})).stdout
    ids = json.loads(tokenized)["ids"]
    rng = random.Random(1)
    return [rng.choices(ids, k=args.prompt_tokens) for _ in range(args.users * args.requests)]


ROWS = (("output_tokens_per_s", "output tok/s", 1), ("ttft_p50_ms", "TTFT p50 ms", 0), ("ttft_p99_ms", "TTFT p99 ms", 0),
        ("itl_p50_ms", "ITL p50 ms", 1), ("itl_p99_ms", "ITL p99 ms", 1), ("server_cores", "server, cores", 2),
        ("client_cores", "client, cores", 3), ("quiet_seconds", "quiet seconds", 0))
RATIOS = ("output_tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")


def report(rounds, names, base):
    print(f"\n{'':14}" + "".join(f"{name:>16}" for name in names) + "".join(f"{n + ' : ' + base:>34}" for n in names if n != base))
    for key, title, digits in ROWS:
        line = f"{title:14}" + "".join(f"{statistics.median(r[n][key] for r in rounds):16.{digits}f}" for n in names)
        for name in names:
            if name != base and key in RATIOS:
                ratios = [r[name][key] / r[base][key] for r in rounds]
                line += f"{statistics.median(ratios):16.3g} ({min(ratios):.3g} .. {max(ratios):.3g})".rjust(34)
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paceline", default=str(ROOT / "build/release/paceline"))
    parser.add_argument("--model", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / ".cache" / "llama.cpp")
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2], help="of Paceline; --cores divided by it each")
    parser.add_argument("--without-llama", action="store_true")
    parser.add_argument("--cores", type=int, default=2, help="for server and client together")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=40, help="prompts per user, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=float, default=60, help="seconds; llama-server takes most of a minute for the first prompts")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--patience", type=float, default=4)
    parser.add_argument("--others", type=float, default=0.1, help="cores that other work may take in a second that counts")
    parser.add_argument("--prefix", type=str.split, default=[], help="before each server's command, such as 'nice -n -10'")
    parser.add_argument("--paceline-option", type=str.split, default=[], help="more options of serve, in one string")
    parser.add_argument("--log", type=pathlib.Path, help="what the servers say is appended here")
    parser.add_argument("--json", type=pathlib.Path, help="write every round here")
    args = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops the server first
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.cores])  # what it starts inherits this
    prompts = make_prompts(args)
    makers = {}
    for replicas in args.replicas:
        makers[f"paceline {replicas}x{args.cores // replicas}"] = lambda n=replicas: paceline(args, n)
    if not args.without_llama:
        binaries = build_llama_cpp(args.build, ["llama-server"])
        makers["llama-server"] = lambda: llama_server(args, binaries)
    names = list(makers)
    rounds = []
    for i in range(args.rounds):
        result = {}
        for name in names if i % 2 == 0 else reversed(names):
            with makers[name]() as server:
                result[name] = measure(server, prompts, args)
            if result[name] is None:
                print(f"round {i} {name}: the machine was never quiet; the round does not count", file=sys.stderr, flush=True)
                break
            print(f"round {i} {name}: " + ", ".join(f"{t} {result[name][k]:.{d}f}" for k, t, d in ROWS),
                  file=sys.stderr, flush=True)
        else:
            rounds.append(result)
    if not rounds:
        sys.exit("no round counts")
    report(rounds, names, names[-1])
    if args.json:
        settings = {k: getattr(args, k) for k in ("users", "prompt_tokens", "output_tokens", "cores", "warm_up", "seconds")}
        rounds = [{name: {k: None if math.isnan(v) else v for k, v in row.items()} for name, row in r.items()} for r in rounds]
        args.json.write_text(json.dumps({"settings": settings, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
