"""Perplexity of the int8 path beside the float32 path: the same tokens scored twice through prompt_logprobs.

  python3 tests/bench/perplexity.py --json perplexity.json

The text is the licences that every Debian machine has (/usr/share/common-licenses), or --text FILE. Its first
--tokens tokens are cut into windows that are scored on their own, each without its first token. Printed: both
perplexities and their ratio, how sure it is (standard error over tokens of the difference of log-probabilities),
and the mean absolute difference per token in nats.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LICENSES = pathlib.Path("/usr/share/common-licenses")


def debian_text():
    """The licences in order of name, each once: some names are links to another."""
    return "\n".join(path.read_text() for path in sorted(LICENSES.iterdir()) if not path.is_symlink())


def tokenize(args, text):
    out = subprocess.run([args.paceline, "tokenize", args.model, "--jsonl"], check=True, capture_output=True, text=True,
                         input=json.dumps({"text": text})).stdout
    return json.loads(out)["ids"]


def score(args, windows, dtype, kv_dtype):
    """Log-probability of every token of every window but its first."""
    lines = "".join(json.dumps({"prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}) + "\n" for ids in windows)
    result = subprocess.run([args.paceline, "generate", args.model, "-f", "-", "--compute-dtype", dtype,
                             "--kv-cache-dtype", kv_dtype,
                             "--no-enable-prefix-caching", "--kv-cache-memory", args.kv_cache_memory],
                            check=True, stdout=subprocess.PIPE, text=True, input=lines)
    scores = []
    for ids, line in zip(windows, result.stdout.splitlines(), strict=True):
        prompt = json.loads(line)["choices"][0]["prompt_logprobs"]
        scores += [position[str(token)]["logprob"] for token, position in zip(ids[1:], prompt[1:], strict=True)]
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paceline", default=str(ROOT / "build/release/paceline"))
    parser.add_argument("--model", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--text", type=pathlib.Path, help="score this file instead")
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--window", type=int, default=1024, help="tokens scored together")
    parser.add_argument("--kv-cache-dtype", default="auto", help="of the int8 path")
    parser.add_argument("--kv-cache-memory", default="1GiB")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here")
    args = parser.parse_args()

    ids = tokenize(args, args.text.read_text() if args.text else debian_text())[:args.tokens]
    windows = [ids[i:i + args.window] for i in range(0, len(ids), args.window)]
    windows = [window for window in windows if len(window) > 1]
    if len(ids) < args.tokens:
        print(f"the text has {len(ids)} tokens only", file=sys.stderr)
    int8 = score(args, windows, "auto", args.kv_cache_dtype)
    float32 = score(args, windows, "float32", "auto")

    differences = [a - b for a, b in zip(int8, float32)]
    perplexity = {name: math.exp(-statistics.fmean(values)) for name, values in (("int8", int8), ("float32", float32))}
    figures = {
        "tokens": len(int8), "window": args.window, "kv_cache_dtype": args.kv_cache_dtype,
        "perplexity_int8": perplexity["int8"],
        "perplexity_float32": perplexity["float32"],
        "ratio_minus_one_percent": 100 * (perplexity["int8"] / perplexity["float32"] - 1),
        "standard_error_percent": 100 * statistics.stdev(differences) / math.sqrt(len(differences)),
        "mean_absolute_difference_nats": statistics.fmean(map(abs, differences)),
    }
    print(f"{figures['tokens']} tokens in windows of {args.window}: perplexity int8 {perplexity['int8']:.4f}, "
          f"float32 {perplexity['float32']:.4f}: {figures['ratio_minus_one_percent']:+.3f} % "
          f"(standard error {figures['standard_error_percent']:.3f} %), "
          f"mean |difference| {figures['mean_absolute_difference_nats']:.4f} nats")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
