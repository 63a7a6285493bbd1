"""Writes dequantize_cases.h: random bytes of every tensor type and what they mean as float32, by the
PyPI package `gguf` (llama.cpp's own reference, made with 0.19.0). Run it only to add a type:

    python -m venv v && v/bin/pip install gguf numpy
    v/bin/python tests/model/gguf/make_cases.py > tests/model/gguf/dequantize_cases.h
"""
import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

TYPES = {"F32": T.F32, "F16": T.F16, "BF16": T.BF16, "Q8_0": T.Q8_0, "Q4_0": T.Q4_0, "Q4_1": T.Q4_1}
HALF_OFFSETS = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2]}
NUM_ELEMENTS = 64
# Edge values of the 16-bit floats, put in front of the random ones.
HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x3555, 0x7BFF, 0x7C00, 0xFC00]
BFLOATS = [0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x3F80, 0xBF80, 0x3EAB, 0x7F7F, 0x7F80, 0xFF80]


def encoded(name, rng):
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[TYPES[name]]
    if name == "F32":
        return rng.standard_normal(NUM_ELEMENTS).astype("<f4").tobytes()
    if name in ("F16", "BF16"):
        edges = HALVES if name == "F16" else BFLOATS
        bits = np.concatenate([np.array(edges), rng.integers(0, 0x7000, NUM_ELEMENTS - len(edges))])
        return bits.astype("<u2").tobytes()
    blocks = rng.integers(0, 256, (NUM_ELEMENTS // block_size, block_bytes), dtype=np.uint8)
    for i, block in enumerate(blocks):
        for offset in HALF_OFFSETS[name]:  # finite scales, one of them a subnormal half
            value = rng.standard_normal() * (1e-6 if i == 1 and offset == 0 else 0.05)
            block[offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return blocks.tobytes()


def lines(values, per_line):
    rows = [values[i : i + per_line] for i in range(0, len(values), per_line)]
    return ",\n".join("         " + ", ".join(row) for row in rows)


def main():
    print("// Made by make_cases.py with the PyPI package gguf; do not edit.")
    print("// clang-format off")
    print("#ifndef PACELINE_TESTS_MODEL_GGUF_DEQUANTIZE_CASES_H_")
    print("#define PACELINE_TESTS_MODEL_GGUF_DEQUANTIZE_CASES_H_\n")
    print("#include <cstdint>\n#include <vector>\n")
    print('#include "model/gguf/tensor_type.h"\n')
    print("namespace paceline::model {\n")
    print("struct DequantizeCase {")
    print("  TensorType type;")
    print("  std::vector<uint8_t> bytes;")
    print("  std::vector<uint32_t> float_bits;  // bit patterns, so that -0 and infinity compare too")
    print("};\n")
    print("inline const std::vector<DequantizeCase>& DequantizeCases() {")
    print("  static const std::vector<DequantizeCase> cases = {")
    rng = np.random.default_rng(20240613)
    for name in TYPES:
        raw = encoded(name, rng)
        floats = gguf.quants.dequantize(np.frombuffer(raw, np.uint8), TYPES[name]) if name != "F32" \
            else np.frombuffer(raw, "<f4")
        if name == "F16":
            floats = np.frombuffer(raw, "<f2").astype(np.float32)
        bits = np.ascontiguousarray(floats, dtype="<f4").view("<u4").reshape(-1)
        assert len(bits) == NUM_ELEMENTS
        print(f"      {{TensorType::k{name},\n        {{")
        print(lines([f"0x{b:02x}" for b in raw], 16) + "},\n        {")
        print(lines([f"0x{b:08x}" for b in bits], 8) + "}},")
    print("  };\n  return cases;\n}\n")
    print("}  // namespace paceline::model\n")
    print("#endif  // PACELINE_TESTS_MODEL_GGUF_DEQUANTIZE_CASES_H_")


main()
