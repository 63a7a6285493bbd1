"""Files that are no model, not the whole model, or not quite the model: a named error and exit status 2,
before anything is served."""

import os
import random
import shutil
import struct
import subprocess
import sys

import pytest

from support.cluster import MODEL, ROOT, run


def refused(result, *words):
    text = result.stderr.decode("utf-8", "replace")
    assert result.returncode == 2, (result.returncode, text[-500:])
    assert result.stdout == b""
    for word in words:
        assert word in text, text
    for secret in ("terminate called", "std::", ".cc:"):
        assert secret not in text
    return text


def generate(path):
    return run("generate", path, "-p", "x", "--max-tokens", 1)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of the model whose first bytes the tests change and restore."""
    path = tmp_path_factory.mktemp("model") / "scratch.gguf"
    shutil.copyfile(MODEL, path)
    yield path
    path.unlink()


@pytest.fixture
def patched(scratch):
    """Writes bytes at an offset for one test."""
    undo = []

    def patch(offset, data):
        with open(scratch, "r+b") as file:
            file.seek(offset)
            undo.append((offset, file.read(len(data))))
            file.seek(offset)
            file.write(data)
        return scratch

    yield patch
    with open(scratch, "r+b") as file:
        for offset, data in reversed(undo):
            file.seek(offset)
            file.write(data)


class TestNoModel:
    def test_missing(self):
        for command in ("generate", "tokenize", "bench"):
            args = ["-p", "x"] if command == "generate" else []
            refused(run(command, "/nowhere/model.gguf", *args), "/nowhere/model.gguf")

    def test_serve_and_worker(self):
        refused(run("serve", "/nowhere/model.gguf", "--port", 0, "--grpc-port", 0,
                    "--operator-port", 0), "/nowhere/model.gguf")
        refused(run("worker", "--model", "/nowhere/model.gguf", "--port", 0),
                "/nowhere/model.gguf")

    def test_directory(self, tmp_path):
        refused(generate(tmp_path), str(tmp_path))

    def test_device(self):
        refused(generate("/dev/null"), "/dev/null")
        refused(generate("/dev/zero"), "/dev/zero")

    @pytest.mark.parametrize("data", [
        b"", b"G", b"GGUF", b"GGUF\x03\0\0\0", b"PK\x03\x04" + bytes(100), b"{}" * 100,
        bytes(1000), b"GGUF" + b"\xff" * 1000])
    def test_something_else(self, tmp_path, data):
        path = tmp_path / "thing.gguf"
        path.write_bytes(data)
        refused(generate(path), str(path))


class TestTruncated:
    @pytest.mark.parametrize("size", [24, 100, 4096, 100_000, 1_000_000, 1_700_000, 50 << 20, -1])
    def test_is_named(self, tmp_path, size):
        path = tmp_path / "cut.gguf"
        total = os.path.getsize(MODEL)
        with open(MODEL, "rb") as source, open(path, "wb") as target:
            target.write(source.read(size if size > 0 else total + size))
        refused(generate(path), str(path))

    def test_tail_that_is_too_long_is_no_harm(self, tmp_path):
        path = tmp_path / "long.gguf"
        shutil.copyfile(MODEL, path)
        with open(path, "ab") as file:
            file.write(b"\0" * 1000)
        assert generate(path).returncode in (0, 2)


class TestHeader:
    @pytest.mark.parametrize("offset, data, word", [
        (0, b"GGUX", "magic"), (4, struct.pack("<I", 0), "version"),
        (4, struct.pack("<I", 99), "version"), (4, struct.pack(">I", 3), "version"),
        (8, struct.pack("<Q", 1 << 63), "tensor"), (8, struct.pack("<Q", 1 << 40), "tensor"),
        (8, struct.pack("<Q", 0), ""), (16, struct.pack("<Q", 1 << 63), ""),
        (16, struct.pack("<Q", 0), ""), (24, struct.pack("<Q", 1 << 63), ""),
        (24, struct.pack("<Q", 0), "")])
    def test_fields(self, patched, offset, data, word):
        refused(generate(patched(offset, data)), word)

    def test_bit_flips_never_crash(self, patched):
        """Anywhere in the metadata. Most flips hit a token's text and change nothing."""
        dice = random.Random(5)
        for _ in range(24):
            offset = dice.randrange(1_700_000)
            with open(MODEL, "rb") as file:
                file.seek(offset)
                byte = file.read(1)[0]
            path = patched(offset, bytes([byte ^ 1 << dice.randrange(8)]))
            result = run("tokenize", path, stdin=b"Hello")
            assert result.returncode in (0, 2), (offset, result.returncode, result.stderr)

    def test_bit_flips_near_the_start_never_crash(self, patched):
        dice = random.Random(6)
        for _ in range(24):
            offset = dice.randrange(2000)
            with open(MODEL, "rb") as file:
                file.seek(offset)
                byte = file.read(1)[0]
            result = generate(patched(offset, bytes([byte ^ 1 << dice.randrange(8)])))
            assert result.returncode in (0, 2), (offset, result.returncode, result.stderr)


@pytest.mark.parametrize("kind", ["bf16", "q4_0"])
def test_random_weights_for_measurements_are_a_model(kind, tmp_path):
    path = tmp_path / "random.gguf"
    subprocess.run([sys.executable, os.path.join(ROOT, "tests/gpu/random_model.py"), path, "--shape", "tiny",
                    "--type", kind], check=True)
    result = generate(path)
    path.unlink()
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 1
