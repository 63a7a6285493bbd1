"""The image, without a container engine: the Dockerfile's steps run in plain folders, and what they
make runs in a chroot as the image would: read-only, as nobody, with nothing else there.

The compiler's step takes minutes. Unless PACELINE_IMAGE_BUILD is set, the binary that is there already
stands in for what it makes."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import chart
from support.cluster import MODEL, binary
from support.processes import eventually, free_port

DOCKERFILE = os.path.join(chart.ROOT, "deploy", "docker", "Dockerfile")
COMPOSE = os.path.join(chart.ROOT, "deploy", "compose")


def instructions():
    """(stage, instruction, argument) in order; continued lines joined, variables left as they are."""
    with open(DOCKERFILE, encoding="utf-8") as f:
        text = re.sub(r"\\\n", " ", f.read())
    stage, found = None, []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = line.split(None, 1)
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        found.append((stage, word, rest))
    return found


def context():
    """Tracked files that .dockerignore lets through."""
    with open(os.path.join(chart.ROOT, ".dockerignore"), encoding="utf-8") as f:
        lines = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    assert lines[0] == "*"
    kept = [line[1:] for line in lines if line.startswith("!")]
    tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                             cwd=chart.ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in tracked.splitlines()
            if any(path == k or path.startswith(k + "/") for k in kept)
            and not fnmatch.fnmatch(path, "*/__pycache__/*")]


def copy(source, files, destination):
    for path in files:
        target = os.path.join(destination, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(os.path.join(source, path), target)


@pytest.fixture(name="rootfs", scope="module")
def _rootfs(tmp_path_factory):
    """What the cpu target consists of, made by the Dockerfile's own COPY and RUN lines."""
    folder = tmp_path_factory.mktemp("image")
    places = {"/src": folder / "src", "/rootfs": folder / "rootfs"}
    files = context()
    here = None
    for stage, word, rest in instructions():
        if stage not in ("tools", "build"):
            continue
        if word == "WORKDIR":
            here = places[rest]
            here.mkdir()
        elif word == "COPY":
            source, target = rest.split()
            chosen = files if source == "." else [f for f in files if f == source]
            assert chosen, rest
            copy(chart.ROOT, chosen, here)
            assert target in (".", os.path.dirname(source) + "/")
        elif word == "RUN":
            if rest.startswith("cmake ") and not os.environ.get("PACELINE_IMAGE_BUILD"):
                (here / "build" / "release").mkdir(parents=True)
                shutil.copy2(binary(), here / "build" / "release" / "paceline")
                continue
            for name, path in places.items():
                rest = rest.replace(name, str(path))
            done = subprocess.run(["bash", "-c", rest], cwd=here, capture_output=True, text=True)
            assert done.returncode == 0, f"{rest}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    yield places["/rootfs"]
    shutil.rmtree(folder, ignore_errors=True)


def test_hadolint_finds_nothing_to_mend():
    lint = os.path.join(os.path.dirname(sys.executable), "hadolint")
    done = subprocess.run([lint, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target, build", [("cpu", "build"), ("cuda", "build-cuda")])
def test_final_stages_are_bare_and_nobody(target, build):
    final = {word: rest for stage, word, rest in instructions() if stage == target}
    assert final["FROM"].startswith("scratch")
    assert final["USER"] == "65532:65532"
    assert json.loads(final["ENTRYPOINT"]) == ["/usr/bin/paceline"]
    assert json.loads(final["HEALTHCHECK"].split("CMD ")[1]) == ["/usr/bin/paceline", "health"]
    assert "RUN" not in final
    copies = [rest.split() for stage, word, rest in instructions() if stage == target and word == "COPY"]
    assert copies[0] == [f"--from={build}", "/rootfs", "/"]
    for source, *files, folder in copies[1:]:
        assert source == f"--from={build}"
        for file in files:
            assert os.path.exists(file) and file.startswith(folder), file
    assert len(copies) == (1 if target == "cpu" else 3)


def test_processors_are_the_target_that_nobody_has_to_name():
    assert instructions()[-1][0] == "cpu"
    for stage, cuda in (("build", "OFF"), ("build-cuda", "ON")):
        assert [rest for s, word, rest in instructions() if s == stage and f"-DPACELINE_CUDA={cuda} " in rest]


def test_the_root_has_only_what_is_needed(rootfs):
    files = {os.path.relpath(os.path.join(path, name), rootfs)
             for path, _, names in os.walk(rootfs) for name in names}
    programs = {f for f in files if f.startswith(("usr/bin/", "bin/", "sbin/", "usr/sbin/"))}
    assert programs == {"usr/bin/paceline"}
    others = {f for f in files if not f.startswith(("lib", "usr/lib", "usr/share/doc/"))} - programs
    assert others == {"etc/passwd", "etc/group", "etc/nsswitch.conf",
                      "usr/share/sbom/paceline.spdx.json"}


def test_the_bill_of_materials_names_every_library(rootfs):
    sbom = json.loads((rootfs / "usr/share/sbom/paceline.spdx.json").read_text())
    assert sbom["spdxVersion"] == "SPDX-2.3"
    packages = {p["name"]: p for p in sbom["packages"]}
    assert {"paceline", "libc6", "libstdc++6", "libssl3", "libprotobuf32"} <= set(packages)
    listed = "\n".join(p.get("comment", "") for p in packages.values())
    for path, _, names in os.walk(rootfs):
        for name in names:
            if ".so" in name:
                assert os.path.basename(os.path.realpath(os.path.join("/lib/x86_64-linux-gnu", name))) \
                    in listed, name
    ids = [p["SPDXID"] for p in sbom["packages"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", i) for i in ids)
    assert {r["relatedSpdxElement"] for r in sbom["relationships"]} == set(ids)
    for name in packages:
        if name != "paceline":
            assert (rootfs / "usr/share/doc" / name / "copyright").exists(), name


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_it_runs_alone_read_only_and_as_nobody(rootfs):
    for folder in ("models", "proc", "dev"):
        (rootfs / folder).mkdir(exist_ok=True)
    port = free_port()
    inside = ["chroot", "--userspec=65532:65532", str(rootfs), "/usr/bin/paceline"]
    command = ["worker", "--model=/models/" + os.path.basename(MODEL), "--port=0",
               f"--operator-port={port}", "--kv-cache-memory=64MiB", "--threads=1"]
    script = f"""set -e
        mount --bind {rootfs} {rootfs}
        mount -o remount,ro,bind {rootfs}
        mount --bind {os.path.dirname(MODEL)} {rootfs}/models
        mount -t proc proc {rootfs}/proc
        mount --rbind /dev {rootfs}/dev
        exec setpriv --pdeathsig KILL -- "$@" """
    worker = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", *inside, *command],
                              stderr=subprocess.PIPE)
    try:
        health = [*inside, "health", f"http://127.0.0.1:{port}/ready"]

        def ready():
            assert worker.poll() is None, worker.stderr.read().decode()
            return subprocess.run(health, capture_output=True).returncode == 0
        eventually(ready, 120, "the worker is ready")
        worker.terminate()
        assert worker.wait(120) == 0
    finally:
        worker.kill()
        worker.wait()


def test_compose_runs_what_the_binary_takes_and_mounts_what_is_there():
    with open(os.path.join(COMPOSE, "compose.yaml"), encoding="utf-8") as f:
        compose = yaml.safe_load(f)
    for name, service in compose["services"].items():
        assert re.search(r":[\w.]+$", service["image"]) and not service["image"].endswith("latest")
        for volume in service.get("volumes", []):
            assert volume["read_only"]
            if not volume["source"].startswith("$"):
                assert os.path.exists(os.path.join(COMPOSE, volume["source"])), volume
        if service["image"].startswith("paceline/"):
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
            command, *options = service["command"]
            offered = subprocess.run([binary(), command, "--help"], capture_output=True, text=True).stdout
            for option in options:
                assert option.split("=")[0] in offered, option
    build = compose["services"]["router"]["build"]
    assert os.path.samefile(os.path.join(COMPOSE, build["context"]), chart.ROOT)
    assert os.path.samefile(os.path.join(chart.ROOT, build["dockerfile"]), DOCKERFILE)
    assert build["target"] in {stage for stage, _, _ in instructions()}
    done = subprocess.run(["promtool", "check", "config", "--syntax-only",
                           os.path.join(COMPOSE, "prometheus.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
