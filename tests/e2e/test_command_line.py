"""The command: exit status 0 done, 1 failed, 2 wrong usage or configuration; the message names what is
wrong; stdout carries results only."""

import concurrent.futures
import http.server
import json
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import grpc
import pytest

from support.cluster import MODEL, MODEL_NAME, binary, environment, run
from support.processes import eventually
from support.rest import loads_exact


def refused(result, status, *words):
    """It said why on stderr, and nothing on stdout."""
    text = result.stderr.decode()
    assert result.returncode == status, (result.returncode, text)
    for word in words:
        assert word in text, text
    assert result.stdout == b""
    for secret in ("terminate called", "std::", "0x", ".cc:"):
        assert secret not in text
    return text


class TestUsage:
    @pytest.mark.parametrize("word", ["version", "--version"])
    def test_version(self, word):
        result = run(word)
        assert result.returncode == 0
        assert re.fullmatch(rb"paceline \d+\.\d+\.\d+\n", result.stdout)
        assert result.stderr == b""

    @pytest.mark.parametrize("args", [["help"], ["--help"], ["-h"]])
    def test_help_names_every_command(self, args):
        result = run(*args)
        assert result.returncode == 0
        for name in ("serve", "router", "worker", "generate", "chat", "tokenize", "bench", "version",
                     "help"):
            assert name in result.stdout.decode()

    @pytest.mark.parametrize("name", ["serve", "router", "worker", "generate", "chat", "tokenize",
                                      "bench"])
    def test_help_of_a_command(self, name):
        result = run(name, "--help")
        assert result.returncode == 0
        assert b"--" in result.stdout

    @pytest.mark.parametrize("args, words", [
        ([], []), (["frobnicate"], ["frobnicate"]), (["serve"], ["MODEL"]), (["generate"], ["MODEL"]),
        (["worker"], ["--model"]), (["tokenize"], ["MODEL"]), (["bench"], ["MODEL"]),
        (["tokenize", "hf://a/b"], ["hf://"]),
        (["serve", MODEL, "--frobnicate", "1"], ["--frobnicate"]),
        (["generate", MODEL, "--frobnicate"], ["--frobnicate"]),
        (["serve", MODEL, "extra"], ["extra"]),
        (["serve", MODEL, "--port", "70000"], ["--port"]),
        (["serve", MODEL, "--port", "x"], ["--port"]),
        (["serve", MODEL, "--grpc-port", "-1"], ["--grpc-port"]),
        (["serve", MODEL, "--replicas", "0"], ["--replicas"]),
        (["serve", MODEL, "--threads", "999"], ["--threads"]),
        (["serve", MODEL, "--threads", "0"], ["--threads"]),
        (["serve", MODEL, "--max-model-len", "1"], ["--max-model-len"]),
        (["serve", MODEL, "--max-num-seqs", "0"], ["--max-num-seqs"]),
        (["serve", MODEL, "--block-size", "16"], ["--block-size"]),
        (["serve", MODEL, "--kv-cache-memory", "0"], ["--kv-cache-memory"]),
        (["serve", MODEL, "--kv-cache-memory", "-1"], ["--kv-cache-memory"]),
        (["serve", MODEL, "--kv-cache-memory", "lots"], ["--kv-cache-memory"]),
        (["serve", MODEL, "--compute-dtype", "float8"], ["--compute-dtype"]),
        (["serve", MODEL, "--kv-cache-dtype", "int4"], ["--kv-cache-dtype"]),
        (["serve", MODEL, "--tensor-parallel-mode", "sloppy"], ["--tensor-parallel-mode"]),
        (["serve", MODEL, "--log-level", "loud"], ["--log-level"]),
        (["serve", MODEL, "--balance", "luck"], ["--balance"]),
        (["serve", MODEL, "-tp", "10"], ["--tensor-parallel-size", "heads"]),
        (["generate", MODEL, "-p", "x", "-tp", "3"], ["--tensor-parallel-size"]),
        (["generate", MODEL, "-p", "x", "-pp", "2"], ["--pipeline-parallel-size"]),
        (["bench", MODEL, "-tp", "2"], ["--tensor-parallel-size"]),
        (["generate", MODEL, "-p", "x", "--max-model-len", "1000000"], ["--max-model-len"]),
        (["serve", MODEL, "--max-model-len", "1000000"], ["--max-model-len"]),
        (["generate", MODEL, "-p", "x", "--kv-cache-memory", "1"], ["--kv-cache-memory"]),
        (["serve", MODEL, "--kv-cache-memory", "1"], ["--kv-cache-memory"]),
        (["generate", MODEL, "-p", "x", "--max-num-batched-tokens", "8", "--max-num-seqs", "16"],
         ["--max-num-batched-tokens"]),
        (["generate", MODEL, "-p", "x", "--kv-cache-memory", "900TiB"], ["--kv-cache-memory"]),
        (["generate", MODEL], ["-p", "-f"]),
        (["generate", MODEL, "-p", "x", "-f", "y"], ["-p", "-f"]),
        (["generate", MODEL, "-p", "x", "-o", "y"], ["-o"]),
        (["generate", MODEL, "-p", "x", "--temperature", "-1"], ["--temperature"]),
        (["generate", MODEL, "-p", "x", "--temperature", "nan"], ["--temperature"]),
        (["generate", MODEL, "-p", "x", "--max-tokens", "0"], ["--max-tokens"]),
        (["generate", MODEL, "-f", "/nowhere/in.jsonl"], ["/nowhere/in.jsonl"]),
        (["tokenize", MODEL, "--jsonl", "--chat"], ["--jsonl", "--chat"]),
        (["tokenize", MODEL, "--chat-template", "x"], ["--chat-template"]),
        (["tokenize", MODEL, "--chat", "--chat-template", "/nowhere/t"], ["/nowhere/t"]),
        (["bench", MODEL, "--batch", "0"], ["--batch"]),
        (["bench", "http://127.0.0.1:1"], ["URL"]),
        (["router"], ["--workers"]),
        (["router", "--workers", "no port"], ["--workers"]),
        (["router", "--workers", "host:99999"], ["--workers"]),
        (["chat", "ftp://x"], ["URL"]), (["chat", "http://x:99999"], ["URL"]),
        (["serve", MODEL, "--api-key", ""], ["--api-key"]),
        (["serve", MODEL, "--host", "not an address"], ["not an address"]),
    ], ids=lambda value: "_".join(os.path.basename(v) for v in value)[:60] or "nothing")
    def test_wrong_usage_is_named(self, args, words):
        result = run(*args)
        status = 2 if "not an address" not in args else result.returncode or 2
        refused(result, status, *words)

    def test_hugging_face_names_are_not_built(self):
        refused(run("generate", "hf://a/b", "-p", "x"), 2, "hf://")


class TestAddresses:
    @pytest.mark.parametrize("option", ["--port", "--grpc-port", "--operator-port"])
    def test_a_port_in_use_is_named_and_no_worker_stays(self, option):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            ports = {"--port": 0, "--grpc-port": 0, "--operator-port": 0, option: port}
            args = [str(part) for pair in ports.items() for part in pair]
            result = run("serve", MODEL, *args)
        assert result.returncode != 0 and result.returncode > 0
        assert f"127.0.0.1:{port}" in result.stderr.decode()
        # run() returns when the pipe to stderr is closed, which workers would hold open.

    def test_a_model_that_cannot_be_used_is_named_before_a_port_in_use(self, tmp_path):
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"GGUF\3\0\0\0")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            for model in (broken, tmp_path / "absent.gguf"):
                refused(run("serve", model, "--port", taken.getsockname()[1], "--grpc-port", 0,
                            "--operator-port", 0), 2, str(model))

    def test_worker_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            result = run("worker", "--model", MODEL, "--port", port, "--kv-cache-memory", "64MiB")
        assert result.returncode > 0
        assert f"{port}" in result.stderr.decode()


class TestConfiguration:
    def test_file(self, tmp_path):
        config = tmp_path / "paceline.yaml"
        config.write_text("max-model-len: 1000000\nport: 0\ngrpc-port: 0\noperator-port: 0\n")
        refused(run("serve", MODEL, "--config", config), 2, "--max-model-len", "1000000")
        # The command line wins over the file.
        refused(run("serve", MODEL, "--config", config, "--max-model-len", "2000000"), 2, "2000000")

    @pytest.mark.parametrize("text, word", [
        ("max-modle-len: 5\n", "max-modle-len"), ("port: {a: 1}\n", "port"), ("- a\n- b\n", "map"),
        ("port: [1, 2\n", "YAML"), ("\tport: 1\n", "YAML"), ("port: x\n", "port"), ("5\n", "map"),
        ("? [1, 2]\n: 3\n", "")])
    def test_bad_files(self, tmp_path, text, word):
        config = tmp_path / "paceline.yaml"
        config.write_text(text)
        refused(run("serve", MODEL, "--config", config), 2, word)

    def test_missing_file(self):
        refused(run("serve", MODEL, "--config", "/nowhere.yaml"), 2, "/nowhere.yaml")

    def test_environment(self):
        refused(run("generate", MODEL, "-p", "x", env={"PACELINE_MAX_MODEL_LEN": "1000000"}), 2,
                "--max-model-len", "1000000")
        # The command line wins.
        refused(run("generate", MODEL, "-p", "x", "--max-model-len", "2000000",
                    env={"PACELINE_MAX_MODEL_LEN": "1000000"}), 2, "2000000")
        refused(run("serve", MODEL, env={"PACELINE_PORT": "70000"}), 2, "--port")
        refused(run("generate", "-p", "x", env={"PACELINE_MODEL": "/nowhere.gguf"}), 2,
                "/nowhere.gguf")

    def test_environment_wins_over_the_file(self, tmp_path):
        config = tmp_path / "paceline.yaml"
        config.write_text("max-model-len: 1000000\n")
        refused(run("serve", MODEL, "--config", config, env={"PACELINE_MAX_MODEL_LEN": "3000000"}),
                2, "3000000")


class TestGenerate:
    def test_prompt(self):
        result = run("generate", MODEL, "-p", "The capital of France is", "--max-tokens", 8)
        assert result.returncode == 0
        assert result.stdout.decode().startswith("The capital of France is Paris")

    def test_prompts_and_chat(self):
        result = run("generate", MODEL, "--chat", "-p", "What is 2+2?", "-p", "What is 2+2?",
                     "--max-tokens", 30)
        first, second = result.stdout.decode().strip().split("\n")
        assert first == second and "4" in first

    def test_seed(self):
        args = ("generate", MODEL, "-p", "Once", "--temperature", 1, "--max-tokens", 20, "--seed")
        assert run(*args, 1).stdout == run(*args, 1).stdout != run(*args, 2).stdout

    def test_bad_lines_are_answered_in_their_place(self, tmp_path):
        lines = [
            {"prompt": "One", "max_tokens": 2, "temperature": 0}, "{", {"prompt": 5},
            {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
            {"prompt": "x", "tempature": 1}, {"prompt": "x", "stream": True}, "", "[]",
            {"prompt": "x", "model": "other"}, {"prompt": [1] * 9000}, "null", b"\xff\xfe",
            {"prompt": ["a", "b"], "max_tokens": 1, "n": 2}, {"prompt": "Two", "max_tokens": 2}]
        file = tmp_path / "in.jsonl"
        file.write_bytes(b"".join(
            (line if isinstance(line, bytes) else
             (line if isinstance(line, str) else json.dumps(line)).encode()) + b"\n"
            for line in lines))
        out = tmp_path / "out.jsonl"
        result = run("generate", MODEL, "-f", file, "-o", out)
        assert result.returncode == 1
        assert result.stdout == b""
        answers = [json.loads(line) for line in out.read_text().splitlines()]
        kinds = [answer["error"]["param"] if "error" in answer else answer["object"]
                 for answer in answers]
        # The empty line is no request.
        assert kinds == ["text_completion", None, "prompt", "chat.completion", "tempature", "stream",
                         None, "model", "prompt", None, None, "text_completion", "text_completion"]
        assert len(answers[-2]["choices"]) == 4
        for answer in answers:
            if "error" in answer:
                assert set(answer["error"]) == {"message", "type", "param", "code"}

    def test_standard_input_to_standard_output(self):
        result = run("generate", MODEL, "-f", "-", stdin=b'{"prompt":"x","max_tokens":1}')
        assert result.returncode == 0
        answer, = [json.loads(line) for line in result.stdout.splitlines()]
        assert answer["usage"]["completion_tokens"] == 1
        assert answer["model"] == MODEL_NAME

    def test_nothing_to_do(self):
        result = run("generate", MODEL, "-f", "-", stdin=b"\n \n")
        assert (result.returncode, result.stdout) == (0, b"")

    def test_stopped_for_longer_than_a_servers_lease(self, tmp_path):
        """As by Ctrl-Z: nothing is lost."""
        (tmp_path / "in.jsonl").write_bytes(b'{"prompt":"x","max_tokens":200,"ignore_eos":true}\n' * 8)
        trace = tmp_path / "trace.json"
        process = subprocess.Popen([binary(), "generate", MODEL, "-f", tmp_path / "in.jsonl", "--step-trace",
                                    trace], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        eventually(lambda: trace.exists() and b'"decode_tokens":8' in trace.read_bytes(), 120, "a step of all lines")
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, b"")  # not even a replica lost and found
        assert [json.loads(line)["usage"]["completion_tokens"] for line in out.splitlines()] == [200] * 8

    @pytest.mark.parametrize("count", [1, 300])
    def test_disk_full(self, count):
        lines = b'{"prompt":"x","max_tokens":1}\n' * count
        text = refused(run("generate", MODEL, "-f", "-", "-o", "/dev/full", stdin=lines), 1,
                       "/dev/full")
        assert "No space left" in text

    def test_standard_output_full(self):
        with open("/dev/full", "wb") as full:
            for args in (["-f", "-"], ["-p", "x", "--max-tokens", "1"]):
                result = subprocess.run(
                    [binary(), "generate", MODEL, *args], input=b'{"prompt":"x","max_tokens":1}\n',
                    stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=300)
                assert result.returncode == 1
                assert b"standard output" in result.stderr

    def test_output_that_cannot_be_opened(self):
        refused(run("generate", MODEL, "-f", "-", "-o", "/nowhere/out"), 2, "/nowhere/out")

    def test_served_model_name(self):
        result = run("generate", MODEL, "-f", "-", "--served-model-name", "little",
                     stdin=b'{"prompt":"x","max_tokens":1,"model":"little"}')
        assert json.loads(result.stdout)["model"] == "little"


class TestTokenize:
    def test_one_id_and_piece_per_line(self):
        result = run("tokenize", MODEL, stdin=b"Hello world!")
        assert result.returncode == 0
        lines = [line.split(" ", 1) for line in result.stdout.decode().splitlines()]
        pieces = [piece.strip('"') for _, piece in lines]
        assert "".join(pieces) == "Hello world!"
        ids = [int(number) for number, _ in lines]
        listed = run("tokenize", MODEL, "--jsonl", stdin=b'{"text":"Hello world!"}')
        assert json.loads(listed.stdout) == {"ids": ids, "decoded": "Hello world!"}

    def test_bad_lines(self):
        stdin = b'{"text":"a"}\n{"text":5}\n{\n[]\n{"text":"b"}\n'
        result = run("tokenize", MODEL, "--jsonl", stdin=stdin)
        assert result.returncode == 1
        kinds = ["error" in json.loads(line) for line in result.stdout.splitlines()]
        assert kinds == [False, True, True, True, False]

    def test_chat(self):
        line = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}
        result = run("tokenize", MODEL, "--chat", stdin=json.dumps(line).encode())
        answer = json.loads(result.stdout)
        assert answer["prompt"].endswith(
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        assert answer["ids"].count(1) == 3

    @pytest.mark.parametrize("template, status", [
        ("{% for i in range(1000000000) %}x{% endfor %}", 1),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", 1),
        ("{{ 'x' * 1000000000 }}", 1), ("{% set ns = namespace(s='x') %}{% for i in range(64) %}"
                                        "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}", 1),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", 1), ("{{ raise_exception('no') }}", 1),
        ("{{ 1 // 0 }}", 1), ("{{ 1 / 0 }}", 1), ("{{ messages[99].content.x.y }}", 1),
        ("{{ '' | nothing }}", 2), ("{% for %}", 2), ("{{", 2), ("{% if x %}", 2),
        ("{{ (" * 5000, 2), ("[" * 100_000, None), ("{{ " + "[" * 100_000, 2),
        ("{{ ''.__class__.__mro__ }}", None), ("{{ messages.__init__.__globals__ }}", None)],
        ids=lambda value: str(value)[:40])
    def test_templates_that_do_not_end_or_do_not_parse(self, tmp_path, template, status):
        file = tmp_path / "template.jinja"
        file.write_text(template)
        line = b'{"messages":[{"role":"user","content":"Hi"}]}\n'
        result = run("tokenize", MODEL, "--chat", "--chat-template", file, stdin=line * 2)
        if status == 2:
            assert result.returncode == 2, result
            assert result.stderr and not result.stdout
        elif status == 1:
            assert result.returncode == 1, (result.returncode, result.stdout[:200], result.stderr)
            answers = [json.loads(answer) for answer in result.stdout.splitlines()]
            assert [set(answer) for answer in answers] == [{"error"}] * 2
        else:
            assert result.returncode in (0, 1, 2), result
            assert b"<class" not in result.stdout and b"builtin" not in result.stdout


class TestBench:
    def test_json(self):
        result = run("bench", MODEL, "--json", "--prompt-tokens", 16, "--output-tokens", 4,
                     "--batch", "1,2", "--repetitions", 1)
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)
        assert set(report) == {"model", "threads", "results"}
        assert report["model"] == MODEL_NAME
        assert [row["batch"] for row in report["results"]] == [1, 2]
        for row in report["results"]:
            assert set(row) == {"batch", "prompt_tokens", "output_tokens", "prefill_tokens_per_s",
                                "decode_tokens_per_s"}
            assert (row["prompt_tokens"], row["output_tokens"]) == (16, 4)
            assert row["prefill_tokens_per_s"] > 0 and row["decode_tokens_per_s"] > 0

    def test_text(self):
        result = run("bench", MODEL, "--prompt-tokens", 8, "--output-tokens", 2, "--repetitions", 1)
        assert result.returncode == 0
        assert "decode" in result.stdout.decode().splitlines()[0]


class TestChat:
    def test_one_message_over_both_protocols(self, cluster):
        question = ("-m", "What is 2+2?", "--temperature", 0, "--max-tokens", 30)
        http = run("chat", cluster.url, *question)
        grpc = run("chat", f"grpc://{cluster.grpc_address}", *question)
        assert http.returncode == grpc.returncode == 0
        assert http.stdout == grpc.stdout and b"4" in http.stdout

    @pytest.mark.parametrize("given, sent", [((), (0.8, 0.05)), (("--temperature", 0), (0, 0.05)),
                                             (("--temperature", 1, "--min-p", 0), (1, 0))])
    def test_how_it_samples(self, pb, given, sent):
        seen = []

        class Http(http.server.BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802, the library's name
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((body["temperature"], body["min_p"]))
                self.send_error(503)

            def log_message(self, *args):
                pass

        class Grpc(pb.services.InferenceServicer):
            def ChatStream(self, request, context):  # noqa: N802, as in the schema
                seen.append((request.sampling.temperature, request.sampling.min_p))
                yield pb.ChatChunk(content_delta="hi")

        over_http = http.server.HTTPServer(("127.0.0.1", 0), Http)
        threading.Thread(target=over_http.handle_request, daemon=True).start()
        over_grpc = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
        pb.services.add_InferenceServicer_to_server(Grpc(), over_grpc)
        port = over_grpc.add_insecure_port("127.0.0.1:0")
        over_grpc.start()
        run("chat", f"http://127.0.0.1:{over_http.server_port}", "-m", "x", *given)
        assert run("chat", f"grpc://127.0.0.1:{port}", "-m", "x", *given).stdout == b"hi\n"
        over_grpc.stop(None)
        over_http.server_close()
        assert seen == [pytest.approx(sent)] * 2

    def test_a_conversation_on_standard_input(self, cluster):
        stdin = b"My name is Zebedee. Please remember it.\nWhat is my name?\n/reset\nWhat is 2+2?\n"
        result = run("chat", cluster.url, "--temperature", 0, "--max-tokens", 40, stdin=stdin)
        assert result.returncode == 0
        assert b"Zebedee" in result.stdout and b"4" in result.stdout.splitlines()[-1]

    def test_no_server(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            for scheme in ("http", "grpc"):
                refused_status = run("chat", f"{scheme}://127.0.0.1:{port}", "-m", "x")
                assert refused_status.returncode == 1, refused_status
                assert refused_status.stderr

    def test_errors_of_the_server(self, cluster):
        for url in (cluster.url, f"grpc://{cluster.grpc_address}"):
            result = run("chat", url, "--model", "other", "-m", "x")
            assert result.returncode in (1, 2)
            assert b"model" in result.stderr


class TestOutput:
    def test_the_curl_line_works(self, cluster):
        line = cluster.wait_for_line(r"^ +(curl -N .*)$")[1]
        result = subprocess.run(["sh", "-c", line.replace("curl", "curl -s")], capture_output=True,
                                timeout=300)
        events = result.stdout.decode().strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        assert loads_exact(events[0][6:])["choices"][0]["delta"]["role"] == "assistant"

    def test_status_page_and_metrics(self, cluster):
        page = cluster.operator("/")
        assert page.count('class="ready"') == 2
        assert MODEL_NAME in page
        metrics = cluster.operator("/metrics")
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting",
                     "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
                     "vllm:time_to_first_token_seconds_bucket", "vllm:request_success_total",
                     "paceline_router_requests_total", "paceline_router_replica_state"):
            assert f"\n{name}{{" in metrics, name

    def test_metrics_can_do_without_the_names_of_others(self, start_cluster):
        server = start_cluster("--no-vllm-metrics", "--kv-cache-memory", "64MiB",
                               "--max-model-len", "512", replicas=1)
        assert "vllm:" not in server.operator("/metrics")
        assert "paceline_router_" in server.operator("/metrics")
        assert server.stop() == 0


class TestPermission:
    def test_model_that_may_not_be_read(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.gguf")
            with open(path, "wb") as file:
                file.write(b"GGUF")
            os.chmod(path, 0)
            options = {}
            args = [binary(), "generate", path, "-p", "x"]
            if os.getuid() == 0:  # root may read everything: become somebody else, with a copy
                os.chmod(folder, 0o755)
                copy = os.path.join(folder, "paceline")
                with open(binary(), "rb") as source, open(copy, "wb") as target:
                    target.write(source.read())
                os.chmod(copy, os.stat(copy).st_mode | stat.S_IXOTH | stat.S_IROTH | stat.S_IXUSR)
                args[0] = copy
                options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            result = subprocess.run(args, capture_output=True, timeout=300, env=environment(),
                                    cwd="/", **options)
            refused(result, 2, path, "ermission")
