"""Writes the seeds of tokenizer_fuzz and vocabulary_fuzz: python3 tests/fuzz/make_tokenizer_corpus.py

Standard library only; the same bytes each time.
"""
import pathlib

CORPUS = pathlib.Path(__file__).parent / "corpus"

TEXTS = {
    "words": "Hello world, it's 2026 - don't\n\n  x".encode(),
    "special": b"<|im_start|>user\nhi<|im_end|>\n<|im_end|>x<|endoftext|>",
    "joined": b"<|im_<|im_end|>end|>",
    "added": b"<think>xyzzy</think>   [TOOL]  <s></s><0x41>",
    "scripts": "über naïve мир 世界 שלום नमस्ते 안녕 u\u0308\u0301 \u0323\u0301".encode(),
    "emoji": "👨‍👩‍👧‍👦👍🏽🇩🇪❤️".encode(),
    "spaces": " \t\r\n\u00a0\u2003\u3000\u0085 ".encode(),
    "invalid": b"a\xff\xc3\xe2\x82\xf0\x9f\x98\xed\xa0\x80b",
    "run": b"a" * 200 + b" " * 200,
}

VOCABULARIES = {
    "bpe": "gpt2 gpt-2\n1 a\n1 b\n1 ab\n1 Ġ\n3 <|im_end|>\n4 xy\n4 <t>\nm a b\ni 4\n",
    "llama3": "gpt2 llama-bpe\n1 a\n1 b\n1 ba\n5 ab\n3 abc\n1 c\nm a b\nm ab c\nm b a\n",
    "qwen2": "gpt2 qwen2\n1 Ã\n1 ©\n1 Ã©\nm Ã ©\n",
    "smollm": "gpt2 smollm\n1 1\n1 11\nm 1 1\n6 a\n2 u\n",
    "sentencepiece": "llama \n2 <unk>\n3 <s>\n6 <0x61>\n1 ▁\n1 a\n1 aa\n1 ▁a\n4 ▁▁\n"
    + "".join(f"s {s}\n" for s in (0, 0, 0, -3, -4, -1, -2, 0)) + "i 1\ni -1\ni -1\ni 0\n",
}


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main():
    for number, (name, data) in enumerate(TEXTS.items()):
        for family in range(5):
            ranges = bytes([2, 3, 9, 4, number]) if family % 2 else b"\0"
            write("tokenizer_fuzz", f"{name}_{family}", bytes([family]) + ranges + data)
    for name, text in VOCABULARIES.items():
        write("vocabulary_fuzz", name, text.encode())


if __name__ == "__main__":
    main()
