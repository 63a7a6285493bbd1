"""Paceline beside llama.cpp: the same file, the same threads, interleaved runs on one machine.

llama.cpp is built once from the source package llama-cpp-python on PyPI, natively (AVX-512 where the machine
has it), into --build. Each round runs both engines on each workload, alternating who goes first; reported are
the medians, the best, and the median of the paired ratios with their range. Trust the ratios: shared machines are
noisy.

  make bench
  .venv/bin/python tests/bench/vs_llama_cpp.py --paceline build/release/paceline --model MODEL.gguf
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile

PACKAGE = "llama-cpp-python==0.3.36"
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(command, **kwargs):
    return subprocess.run(command, check=True, text=True, **kwargs)


def build_llama_cpp(folder: pathlib.Path, programs) -> pathlib.Path:
    """The folder with these programs of llama.cpp; builds them when they are not there."""
    binaries = folder / "build" / "bin"
    if all((binaries / program).exists() for program in programs):
        return binaries
    folder.mkdir(parents=True, exist_ok=True)
    print(f"building llama.cpp of {PACKAGE} in {folder} (once; some minutes)", file=sys.stderr)
    source = folder / "source"
    if not source.exists():
        run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder, PACKAGE])
        archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(source, filter="data")
    vendor = next(source.glob("*/vendor/llama.cpp"))
    run(
        ["cmake", "-S", vendor, "-B", folder / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
        + ["-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
        + ["-DLLAMA_BUILD_EXAMPLES=OFF"],
        stdout=subprocess.DEVNULL,
    )
    run(["ninja", "-C", folder / "build", *programs], stdout=subprocess.DEVNULL)
    return binaries


def llama_bench(binaries, args, prompt, output, context=0):
    """Prefill and decode tokens per second of llama-bench at batch 1."""
    command = [binaries / "llama-bench", "-m", args.model, "-t", str(args.threads), "-r", "1", "-o", "json"]
    command += ["-b", "2048", "-ub", "512", "-fa", "1", "-p", str(prompt), "-n", str(output)]
    if context:
        command += ["-d", str(context)]
    rows = json.loads(run(command, capture_output=True).stdout)
    prefill = [row["avg_ts"] for row in rows if row["n_prompt"] > 0 and row["n_gen"] == 0]
    decode = [row["avg_ts"] for row in rows if row["n_gen"] > 0]
    return (prefill or [0])[0], (decode or [0])[0]


def llama_batched(binaries, args, batch, prompt, output):
    """Decode tokens per second, all sequences together, of llama-batched-bench."""
    command = [binaries / "llama-batched-bench", "-m", args.model, "-t", str(args.threads), "-c", "16384"]
    command += ["-b", "2048", "-ub", "512", "-fa", "on", "-npp", str(prompt), "-ntg", str(output)]
    command += ["-npl", str(batch), "--output-format", "jsonl"]
    for line in run(command, capture_output=True).stdout.splitlines():
        if line.startswith("{"):
            return json.loads(line)["speed_tg"]
    raise RuntimeError("llama-batched-bench printed no result")


def paceline(args, batch, prompt, output):
    command = [args.paceline, "bench", args.model, "--json", "--threads", str(args.threads), "--repetitions", "1"]
    command += ["--batch", str(batch), "--prompt-tokens", str(prompt), "--output-tokens", str(output)]
    row = json.loads(run(command, capture_output=True).stdout)["results"][0]
    return row["prefill_tokens_per_s"], row["decode_tokens_per_s"]


def workloads(binaries, args):
    """name → (ours, theirs), each a function that returns tokens per second of one fresh run."""
    n = args.output_tokens
    return {
        "decode B=1": (lambda: paceline(args, 1, 8, n)[1], lambda: llama_bench(binaries, args, 0, n)[1]),
        "decode B=16": (lambda: paceline(args, 16, 8, n)[1], lambda: llama_batched(binaries, args, 16, 8, n)),
        "decode B=32": (lambda: paceline(args, 32, 8, n)[1], lambda: llama_batched(binaries, args, 32, 8, n)),
        "prefill 128": (lambda: paceline(args, 1, 128, 1)[0], lambda: llama_bench(binaries, args, 128, 0)[0]),
        "prefill 512": (lambda: paceline(args, 1, 512, 1)[0], lambda: llama_bench(binaries, args, 512, 0)[0]),
        "prefill 4096": (lambda: paceline(args, 1, 4096, 1)[0], lambda: llama_bench(binaries, args, 4096, 0)[0]),
        "decode at 4096": (
            lambda: paceline(args, 1, 4096, n)[1],
            lambda: llama_bench(binaries, args, 0, n, context=4096)[1],
        ),
    }


def plot(path: pathlib.Path, results, threads):
    """Ratios as bars, an SVG file."""
    rows, width = list(results.items()), 420
    most = max(row["ratio_range"][1] for _, row in rows)
    x = lambda ratio: 130 + ratio / most * width
    height = 40 + 26 * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{height}" font-family="sans-serif" font-size="13">',
        f'<text x="10" y="20">Tokens per second, llama.cpp = 1 (same file, {threads} thread(s); medians and ranges)</text>',
    ]
    for i, (name, row) in enumerate(rows):
        y = 34 + 26 * i
        low, high = (x(ratio) for ratio in row["ratio_range"])
        parts += [
            f'<text x="10" y="{y + 14}">{name}</text>',
            f'<rect x="130" y="{y}" width="{x(row["ratio"]) - 130:.1f}" height="18" fill="#4878a8"/>',
            f'<path d="M{low:.1f} {y + 9}H{high:.1f}" stroke="#202020" stroke-width="2"/>',
            f'<text x="{high + 8:.1f}" y="{y + 14}">{row["ratio"]:.2f}</text>',
        ]
    parts.append(f'<path d="M{x(1):.1f} 30V{height - 4}" stroke="#c04040" stroke-dasharray="4 3"/></svg>')
    path.write_text("\n".join(parts) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paceline", default=str(ROOT / "build/release/paceline"))
    parser.add_argument("--model", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / ".cache" / "llama.cpp")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names of workloads, by commas; default: all")
    parser.add_argument("--plot", type=pathlib.Path, help="write the ratios as an SVG file")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    binaries = build_llama_cpp(args.build, ["llama-bench", "llama-batched-bench"])

    chosen = workloads(binaries, args)
    for name in filter(None, args.only.split(",")):
        if name not in chosen:
            parser.error(f"--only: no workload '{name}'; there are: {', '.join(chosen)}")
    results = {}
    for name, (ours, theirs) in chosen.items():
        if args.only and name not in args.only.split(","):
            continue
        pairs = []
        for i in range(args.rounds + 1):
            if i % 2 == 0:
                mine, other = ours(), theirs()
            else:
                other, mine = theirs(), ours()
            if i > 0:  # the first round warms caches and clocks
                pairs.append((mine, other))
            print(f"{name} round {i}: paceline {mine:.1f}, llama.cpp {other:.1f} tok/s", file=sys.stderr)
        results[name] = {
            "paceline": statistics.median(p[0] for p in pairs),
            "llama_cpp": statistics.median(p[1] for p in pairs),
            "paceline_best": max(p[0] for p in pairs),
            "llama_cpp_best": max(p[1] for p in pairs),
            "ratio": statistics.median(p[0] / p[1] for p in pairs),
            "ratio_range": [choose(p[0] / p[1] for p in pairs) for choose in (min, max)],
        }
    if args.plot:
        plot(args.plot, results, args.threads)
    if args.json:
        print(json.dumps({"threads": args.threads, "rounds": args.rounds, "results": results}))
        return
    print(f"{'workload':14} {'paceline':>10} {'llama.cpp':>10} {'ratio':>7}  range         (tok/s, medians of {args.rounds} pairs)")
    for name, row in results.items():
        print(f"{name:14} {row['paceline']:10.1f} {row['llama_cpp']:10.1f} {row['ratio']:7.2f}  "
              f"{row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}")


if __name__ == "__main__":
    main()
