"""Writes the seeds of gguf_fuzz: python3 tests/fuzz/make_gguf_corpus.py tests/fuzz/corpus/gguf_fuzz

One sound file for every value type and tensor type, a whole one-layer llama model, and the malformed
kinds that llama.cpp's test-gguf.cpp makes by hand. Standard library only; the same bytes each time.
"""
import pathlib
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
SCALARS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B",
           U64: "<Q", I64: "<q", F64: "<d"}
TENSOR_TYPES = {"f32": (0, 1, 4), "f16": (1, 1, 2), "q4_0": (2, 32, 18), "q4_1": (3, 32, 20),
                "q8_0": (8, 32, 34), "bf16": (30, 1, 2)}


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    return text(value) if kind == STR else struct.pack(SCALARS[kind], value)


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + scalar(kind, value)


def array(key, kind, values):
    return (text(key) + struct.pack("<IIQ", ARR, kind, len(values))
            + b"".join(scalar(kind, v) for v in values))


def tensor(name, dims, kind=0, offset=0, n_dims=None):
    return (text(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims)
            + b"".join(struct.pack("<q", d) for d in dims) + struct.pack("<IQ", kind, offset))


def gguf(entries=(), tensors=(), data=b"", magic=b"GGUF", version=3, n_tensors=None, n_kv=None,
         alignment=32):
    head = magic + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors,
                               len(entries) if n_kv is None else n_kv)
    head += b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


def llama_model():
    hidden, inter, vocab = 32, 32, 2
    entries = [entry("general.architecture", STR, "llama"), entry("general.file_type", U32, 3)]
    for key, value in [("block_count", 1), ("context_length", 16), ("embedding_length", hidden),
                       ("feed_forward_length", inter), ("attention.head_count", 2),
                       ("attention.head_count_kv", 1), ("vocab_size", vocab),
                       ("rope.dimension_count", 16), ("attention.key_length", 16)]:
        entries.append(entry("llama." + key, U32, value))
    entries += [entry("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
                entry("llama.rope.freq_base", F32, 1e4),
                array("tokenizer.ggml.tokens", STR, ["a", "b"])]
    blk = "blk.0."
    shapes = [("token_embd.weight", [hidden, vocab], "q8_0"), ("output_norm.weight", [hidden], "f32"),
              (blk + "attn_norm.weight", [hidden], "f32"), (blk + "attn_q.weight", [hidden, 32], "q4_1"),
              (blk + "attn_k.weight", [hidden, 16], "q4_1"), (blk + "attn_v.weight", [hidden, 16], "q4_1"),
              (blk + "attn_output.weight", [32, hidden], "q4_1"), (blk + "ffn_norm.weight", [hidden], "f32"),
              (blk + "ffn_gate.weight", [hidden, inter], "q4_0"), (blk + "ffn_up.weight", [hidden, inter], "f16"),
              (blk + "ffn_down.weight", [inter, hidden], "bf16"), ("rope_freqs.weight", [8], "f32")]
    tensors, data = [], b""
    for name, dims, kind in shapes:
        kind_id, block, block_bytes = TENSOR_TYPES[kind]
        count = 1
        for d in dims:
            count *= d
        data += b"\0" * (-len(data) % 32)
        tensors.append(tensor(name, dims, kind_id, len(data)))
        data += b"\x3c" * (count // block * block_bytes)
    return gguf(entries, tensors, data)


def seeds():
    yield "empty_header", gguf()
    for name, kind in zip("u8 i8 u16 i16 u32 i32 f32 bool str u64 i64 f64".split(),
                          [U8, I8, U16, I16, U32, I32, F32, BOOL, STR, U64, I64, F64]):
        value = "text" if kind == STR else 1
        yield f"value_{name}", gguf([entry("k", kind, value), array("a", kind, [value] * 3)])
    yield "value_empty_array", gguf([array("a", STR, [])])
    for name, (kind, block, block_bytes) in TENSOR_TYPES.items():
        yield f"tensor_{name}", gguf((), [tensor("t", [block, 2], kind)], b"\1" * (2 * block_bytes))
    yield "llama", llama_model()
    two = [tensor("a", [8], 0, 0), tensor("b", [4, 2], 0, 32)]
    yield "two_tensors", gguf((), two, b"\0" * 64)
    yield "custom_alignment", gguf([entry("general.alignment", U32, 64)],
                                   [tensor("a", [8], 0, 0), tensor("b", [8], 0, 64)], b"\0" * 96,
                                   alignment=64)
    yield "version_2", gguf((), two, b"\0" * 64, version=2)
    # Malformed
    yield "bad_magic", gguf(magic=b"FGUF")
    yield "bad_version_1", gguf(version=1)
    yield "bad_version_4", gguf(version=4)
    yield "bad_version_big_endian", gguf(version=0x03000000)
    yield "bad_n_tensors", gguf(n_tensors=2**64 - 1)
    yield "bad_n_kv", gguf(n_kv=2**64 - 1)
    yield "bad_key_size", gguf([struct.pack("<Q", 2**64 - 1) + b"k"])
    yield "bad_key_empty", gguf([entry("", U8, 1)])
    yield "bad_key_twice", gguf([entry("k", U8, 1), entry("k", U8, 2)])
    yield "bad_value_type", gguf([text("k") + struct.pack("<I", 255) + b"\0" * 8])
    yield "bad_string_size", gguf([text("k") + struct.pack("<IQ", STR, 2**63) + b"v"])
    yield "bad_array_type", gguf([text("k") + struct.pack("<IIQ", ARR, 255, 1) + b"\0" * 8])
    yield "bad_array_count", gguf([text("k") + struct.pack("<IIQ", ARR, U64, 2**61)])
    yield "bad_array_of_arrays", gguf([text("k") + struct.pack("<IIQIQ", ARR, ARR, 1, U8, 0)])
    yield "bad_alignment_0", gguf([entry("general.alignment", U32, 0)])
    yield "bad_alignment_13", gguf([entry("general.alignment", U32, 13)])
    yield "bad_alignment_type", gguf([entry("general.alignment", STR, "32")])
    yield "bad_name_size", gguf((), [tensor("n" * 65, [8])], b"\0" * 32)
    yield "bad_name_twice", gguf((), [tensor("a", [8]), tensor("a", [8], 0, 32)], b"\0" * 64)
    yield "bad_n_dims", gguf((), [tensor("t", [1] * 5)], b"\0" * 32)
    yield "bad_n_dims_0", gguf((), [tensor("t", [])], b"\0" * 32)
    yield "bad_shape_negative", gguf((), [tensor("t", [8, -1])], b"\0" * 32)
    yield "bad_shape_overflow", gguf((), [tensor("t", [2**32, 2**32])], b"\0" * 32)
    yield "bad_shape_bytes_overflow", gguf((), [tensor("t", [2**62])], b"\0" * 32)
    yield "bad_tensor_type", gguf((), [tensor("t", [8], 12)], b"\0" * 32)
    yield "bad_block_size", gguf((), [tensor("t", [16, 2], 3)], b"\0" * 32)
    yield "bad_offset_unaligned", gguf((), [tensor("t", [1], 0, 4)], b"\0" * 32)
    yield "bad_offset_far", gguf((), [tensor("t", [8], 0, 2**64 - 32)], b"\0" * 32)
    yield "bad_overlap", gguf((), [tensor("a", [8]), tensor("b", [8])], b"\0" * 32)
    yield "bad_data_short", gguf((), [tensor("t", [8])], b"\0" * 31)
    yield "bad_data_absent", gguf((), [tensor("t", [8])])


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / f"{name}.gguf").write_bytes(data)


main()
