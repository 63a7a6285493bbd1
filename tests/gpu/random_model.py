#!/usr/bin/env python3
"""Writes a GGUF file of the llama architecture with random weights, to measure shapes whose real weights are not at hand.

    tests/gpu/random_model.py OUT.gguf [--shape llama-3-8b|tiny] [--type bf16|q4_0] [--layers N]

Weights repeat after 32 MiB: kernels do not care, and nobody reads what such a model says. Needs nothing but Python.
"""

import argparse
import os
import struct

SHAPES = {  # as their published configurations have them
    "llama-3-8b": {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "inner": 14336, "vocab": 128256,
                   "context": 8192, "rope": 500000.0},
    "tiny": {"layers": 2, "hidden": 256, "heads": 4, "kv_heads": 2, "inner": 512, "vocab": 512,
             "context": 512, "rope": 10000.0},
}
F32, Q4_0, BF16 = 0, 2, 30  # GGUF's numbers
BLOCK = {F32: (1, 4), Q4_0: (32, 18), BF16: (1, 2)}  # elements and bytes of one
PERIOD = 32 << 20
ALIGNMENT = 32


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def uint32(key, value):
    return text(key) + struct.pack("<II", 4, value)


def float32(key, value):
    return text(key) + struct.pack("<If", 6, value)


def string(key, value):
    return text(key) + struct.pack("<I", 8) + text(value)


def strings(key, values):
    return text(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def int32s(key, values):
    return text(key) + struct.pack(f"<IIQ{len(values)}i", 9, 5, len(values), *values)


def byte_token(byte):
    """As byte-level vocabularies print a byte: itself where it can be seen, else a letter from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte if byte in seen else 256 + [b for b in range(256) if b not in seen].index(byte))


def metadata(shape):
    special = ["<|end|>", "<|begin|>"]
    tokens = special + [byte_token(b) for b in range(256)]
    types = [3] * len(special) + [1] * 256
    types += [5] * (shape["vocab"] - len(tokens))
    tokens += [f"<|unused_{i}|>" for i in range(len(tokens), shape["vocab"])]
    return [
        string("general.architecture", "llama"),
        string("general.name", "random"),
        uint32("llama.block_count", shape["layers"]),
        uint32("llama.context_length", shape["context"]),
        uint32("llama.embedding_length", shape["hidden"]),
        uint32("llama.feed_forward_length", shape["inner"]),
        uint32("llama.attention.head_count", shape["heads"]),
        uint32("llama.attention.head_count_kv", shape["kv_heads"]),
        uint32("llama.rope.dimension_count", shape["hidden"] // shape["heads"]),
        uint32("llama.vocab_size", shape["vocab"]),
        float32("llama.rope.freq_base", shape["rope"]),
        float32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        string("tokenizer.ggml.model", "gpt2"),
        string("tokenizer.ggml.pre", "smollm"),
        strings("tokenizer.ggml.tokens", tokens),
        int32s("tokenizer.ggml.token_type", types),
        strings("tokenizer.ggml.merges", []),
        uint32("tokenizer.ggml.bos_token_id", 1),
        uint32("tokenizer.ggml.eos_token_id", 0),
    ]


def tensors(shape, kind):
    """Names, types and sizes, the fastest first."""
    hidden, inner, vocab = shape["hidden"], shape["inner"], shape["vocab"]
    kv = hidden // shape["heads"] * shape["kv_heads"]
    yield "token_embd.weight", kind, (hidden, vocab)
    yield "output_norm.weight", F32, (hidden,)
    yield "output.weight", kind, (hidden, vocab)
    for layer in range(shape["layers"]):
        for name, rows, columns in (("attn_q", hidden, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden),
                                    ("attn_output", hidden, hidden), ("ffn_gate", inner, hidden),
                                    ("ffn_up", inner, hidden), ("ffn_down", hidden, inner)):
            yield f"blk.{layer}.{name}.weight", kind, (columns, rows)
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", F32, (hidden,)


def num_bytes(kind, sizes):
    elements, size = BLOCK[kind]
    count = 1
    for n in sizes:
        count *= n
    return count // elements * size


def weights(kind, columns):
    """PERIOD bytes, or as many whole blocks, whose sums over a row have a variance near 1."""
    size = BLOCK[kind][1]
    data = bytearray(os.urandom(PERIOD // size * size))
    if kind == Q4_0:  # a scale for each block; numbers are uniform in -8 .. 7
        low, high = struct.pack("<e", (21.3 * columns) ** -0.5)
        data[0::18] = bytes([low]) * len(data[0::18])
        data[1::18] = bytes([high]) * len(data[1::18])
    elif kind == BF16:  # ± 2^-7 to 2^-6: sign and exponent, then seven random bits
        data[0::2] = data[0::2].translate(bytes(b & 0x7F for b in range(256)))
        data[1::2] = data[1::2].translate(bytes((b & 0x80) | 0x3C for b in range(256)))
    return bytes(data)


def write_tensor(out, kind, sizes, cache):
    left = num_bytes(kind, sizes)
    if kind == F32:
        out.write(struct.pack("<f", 1.0) * (left // 4))
        return
    if (kind, sizes[0]) not in cache:
        cache[kind, sizes[0]] = weights(kind, sizes[0])
    data = cache[kind, sizes[0]]
    while left > 0:
        left -= out.write(data[:left] if left < len(data) else data)


def pad(out):
    out.write(b"\0" * (-out.tell() % ALIGNMENT))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--type", choices=("bf16", "q4_0"), default="bf16")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    arguments = parser.parse_args()
    shape = dict(SHAPES[arguments.shape])
    if arguments.layers:
        shape["layers"] = arguments.layers
    listed = list(tensors(shape, {"bf16": BF16, "q4_0": Q4_0}[arguments.type]))
    keys = metadata(shape)
    with open(arguments.out, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(keys)) + b"".join(keys))
        offset = 0
        for name, kind, sizes in listed:
            out.write(text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset))
            offset += -(-num_bytes(kind, sizes) // ALIGNMENT) * ALIGNMENT
        cache = {}
        for _, kind, sizes in listed:
            pad(out)
            write_tensor(out, kind, sizes, cache)


if __name__ == "__main__":
    main()
