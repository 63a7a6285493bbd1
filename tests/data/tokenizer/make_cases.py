"""Makes the reference cases beside this file, one JSON file per tokenizer family.

Each holds a small vocabulary, trained here, and what Hugging Face `tokenizers` makes of many texts with
it; the SentencePiece family is trained and checked by `sentencepiece` itself. Run by hand:
    pip install tokenizers==0.23.3 sentencepiece==0.2.3 && python3 make_cases.py
`python3 make_cases.py --texts N FAMILY` prints N more random cases as JSON lines, for long comparisons.
"""
import io
import json
import pathlib
import random
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers

HERE = pathlib.Path(__file__).parent
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>x"]
ADDED = ["<think>", "   ", "xyzzy", "[TOOL]"]  # user-defined, not special

TRAINING_TEXT = """
The quick brown fox jumps over the lazy dog. It's what they'll say; we've seen that I'm here, you're there.
In 2026 there were 365 days, 1,234,567 hours and 3.14159 reasons. for (int i = 0; i < n; ++i) { return x; }
    def encode(self, text):
        return [self.table[c] for c in text if c in self.table]

Der schnelle braune Fuchs springt über den faulen Hund. L'été à la plage, ça va très bien, où êtes-vous ?
El niño comió una piña mañana. Быстрая коричневая лиса прыгает через ленивую собаку. Привет, мир!
Η γρήγορη καφέ αλεπού. السلام عليكم يا عالم. שלום עולם. नमस्ते दुनिया। สวัสดีชาวโลก
敏捷的棕色狐狸跳过懒狗。你好,世界!こんにちは世界。カタカナ。안녕하세요 세계. 😀😁👍🏽👨‍👩‍👧‍👦❤️🇩🇪
hello hello world world the the and and of of to to in in a a is is that that it it
HELLO WORLD THE AND user assistant system content role message tool function name arguments
"""

TEXTS = [
    "", " ", "  ", "   ", "    ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t x", " \n ", "\n \n x",
    "a", " a", "a ", " a ", "a  b", "a   b", "a \n b", "a\n\n\nb", "x\r\n\r\n y", "x \r\n\r\n  y", "\u00a0a", "a\u00a0\u00a0b",
    "\u2003\u2003x", "\u3000中文", "\u2028x\u2029y", "\x85x", " \x85 x", "\x0b\x0c\x1c\x1d\x1e\x1f x", "\u200b\u200bx", "\ufeffx",
    "hello", "Hello world", " hello  world ", "helloworld", "HELLO", "HeLLo",
    "it's", "IT'S", "It'S", "they'll", "THEY'LL", "they'Ll we'VE I'M you'RE he'D don'T", "'s", " 's", "''s", "'sa", "'S", "'ſ", "a'ſb",
    "l'été", "rock'n'roll", "'", "''", "'''", "' ", " '", "'\n", "'re're", "'r e", "'l", "'v", "'ll'll", "’s",
    "0", "12", "123", "1234", "12345", "123456789", "1 2 3", " 1", "  12", "1a2b", "3.14159", "1,234,567", "2026-11-21T08:00:00Z", "0x1F600",
    "½ ⅓ ²³ Ⅷ ① ٣٤٥ ๑๒๓ 一二三 𝟘𝟙", "x²", "a1b22c333d4444", " ٣", "߀߁", "\U00011de0\U00016ff4", "12\U00011de0",
    "!", "!!", " !", " !!", "!a", "!!a", "a!", "a!b", "a !b", "...", "... ", "?!\n", "?!\n\n", "?! \n\n", "a.\n\nb", "--\r\n--", "(a)", "[a]", "{\"a\": [1, 2]}",
    "$100 #tag @user a@b.co http://x.y/z?q=1&r=%20", "a_b __init__ a-b--c", "\\n\\t", "`code`", "```py\nx = 1\n```\n", "<b>bold</b>", "&amp;",
    "über", "U\u0308ber", "u\u0308", "é e\u0301 ế", "\u0301", "a\u0323\u0301 a\u0301\u0323", "ﬁ ﬀ", "Å Å Å", "\u1100\u1161\u11a8", "각 각", "\u0344", "\u2126 \u212a", "x\u0338 ≮ <\u0338",
    "ǅ ǆ ß ẞ İ ı ſ", "नमस्ते दुनिया", "क्षि", "ไทย", "สวัสดี", "中文字符", "中 文", "你好,世界!", "こんにちは。", "カﾅ", "안녕하세요", "가\u11a8",
    "Привет, мир!", "ΑΒΓ αβγ", "السلام عليكم", "مُحَمَّد", "שלום", "\u202eabc\u202c", "\u200fא\u200e", "\u0600x",
    "😀", "😀😁", " 😀", "👍🏽", "👨‍👩‍👧‍👦", "❤️", "🇩🇪🇫🇷", "a😀b", "🏴\U000e0067\U000e0062\U000e007f", "☃️!", "1️⃣", "🫠🪿",
    "\x00", "a\x00b", "\x01\x02\x7f", "\x04\x06\x13", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\U000f0000x", "\ue000", "\u0378", "\u0558x", "\ufdd0",
    "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>x", "<|im_end|><|im_end|>", "<|im_end|> x", " <|im_end|>", "<|im_start|", "<<|im_end|>>",
    "a<|im_end|>b", "<|im_end|>\n\n", "x <|im_end|> y", "  <|im_end|>  ", "<|IM_END|>", "<|im_\u0301end|>", "e<|im_end|>\u0301",
    "<think>hm</think>", "xyzzy", "axyzzyb", "xyzz", "[TOOL] x[TOOL]", "a    b", "a      b", "       ", "   x   ",
    "s>", "<s>", "</s>", "<unk>", "<0x41>", "▁", "a▁b", " ▁ ", "▁▁a", "Ġ", "Ċ Ġa", "āĀ",
    "unmergeable unmergeable", " zqzq zqzq", "五 五五", "a五b",
    "a" * 100, "ab" * 100, "aaab" * 50, " " * 100, " " * 99 + "x", "\n" * 100, "\n " * 50, "'" * 100, "'s" * 50, "1" * 100, "!" * 100,
    "中" * 60, "é" * 60, "e\u0301" * 40, "\u0301" * 60, "\u0323\u0301" * 30, "😀" * 40, "hello " * 40, "the " * 60, "\t" * 40, "\r\n" * 40, "\u00a0" * 40,
    "def f(x):\n    if x > 0:\n        return x\n    return -x\n", "a\tb\tc\n1\t2\t3\n", "SELECT * FROM t WHERE a = 'b''c';", "It's 5 o'clock; don't say y'all'd've.",
]

PARTS = (
    list("aeiou thsnrl") + ["the", " the", "ing", "hello", "'s", "'LL", "'", " ", "  ", "    ", "\n", "\r\n", "\t", "1", "23", "456", "7890"]
    + ["!", "?", ".", ",", "-", "(", ")", "_", "=", "/", "é", "e\u0301", "u\u0308", "ß", "Ж", "привет", "中", "世界", "の", "한", "नि", "ไท", "שלום", "سلام"]
    + ["😀", "👍🏽", "\u200d", "\ufe0f", "\u00a0", "\u2003", "\u3000", "\x85", "\u2028", "½", "²", "٣", "Ⅷ", "\x00", "\x7f", "\ufffd", "\U0010ffff", "ſ", "▁", "Ġ"]
    + SPECIAL + ADDED + ["<|im", "_end|>", "<", "|", ">"]
)


def random_text(rng):
    if rng.random() < 0.2:  # any assigned or unassigned code points
        count = rng.randint(1, 24)
        return "".join(chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000), rng.randrange(32, 0x500)])) for _ in range(count))
    return "".join(rng.choices(PARTS, k=rng.randint(1, 30)))


def byte_level(family):
    """A trained byte-level BPE, the Vocabulary that describes it, and the Hugging Face tokenizer."""
    pre, missing, extra = {
        "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False), b"\x04\x06\x13\xc0\xc1\xf5\xff", []),
        "smollm": (
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            b"", [],
        ),
        "llama3": (split(LLAMA3), b"", ["Ġunmergeable", "zqzq", "äºĴ"]),
        "qwen2": (split(QWEN2), b"", []),
    }[family]
    alphabet = dict((bytes_char(b), b) for b in range(256) if b not in missing)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre
    if family == "qwen2":
        trained.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=list(alphabet), special_tokens=SPECIAL)
    trained.train_from_iterator(TRAINING_TEXT.splitlines(keepends=True) * 3, trainer)
    state = json.loads(trained.to_str())["model"]
    vocab = {t: i for t, i in state["vocab"].items()}
    for token in extra:
        vocab[token] = len(vocab)
    if missing:  # the trainer's alphabet is a minimum: drop what the text brought in beyond it
        assert not any(bytes_char(b) in vocab for b in missing)
    merges = [tuple(m) for m in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=family == "llama3"))
    tokenizer.normalizer = trained.normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    add_tokens(tokenizer, SPECIAL, ADDED)
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    types = [3 if t in SPECIAL else 4 if t in ADDED else 1 for t in tokens]
    name = {"gpt2": "gpt-2", "llama3": "llama-bpe"}.get(family, family)
    vocabulary = {"model": "gpt2", "pre": name, "tokens": tokens, "token_types": types, "merges": [" ".join(m) for m in merges]}
    return tokenizer, vocabulary


def split(pattern):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def bytes_char(byte):
    """GPT-2's character of a byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


def add_tokens(tokenizer, special, added):
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])


def sentencepiece_bpe():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING_TEXT.splitlines() * 3), model_writer=model, model_type="bpe", vocab_size=820,
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, user_defined_symbols=["xyzzy", "[TOOL]", "<think>"],
        control_symbols=["<|im_start|>", "<|im_end|>"], num_threads=1, minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens = [processor.id_to_piece(i) for i in range(len(processor))]
    scores = [processor.get_score(i) for i in range(len(processor))]
    types = []
    for i, token in enumerate(tokens):
        kind = 2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
        types.append(4 if token in ("xyzzy", "[TOOL]", "<think>") else kind)
    normal = {t: i for i, t in enumerate(tokens) if types[i] == 1}
    merges = []
    for token, i in normal.items():
        splits = [(token[:k], token[k:]) for k in range(1, len(token)) if token[:k] in normal and token[k:] in normal]
        merges += sorted(((scores[i], a, b) for a, b in splits), key=lambda m: (normal[m[1]], normal[m[2]]))
    merges.sort(key=lambda m: -m[0])
    tokenizer = Tokenizer(models.BPE(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = [t for i, t in enumerate(tokens) if types[i] in (2, 3)]
    added = [t for i, t in enumerate(tokens) if types[i] == 4]
    add_tokens(tokenizer, special, added)
    vocabulary = {
        "model": "llama", "pre": "", "tokens": tokens, "token_types": types, "scores": [round(s, 4) for s in scores], "merges": [],
        "add_space_prefix": True, "bos_id": processor.bos_id(), "eos_id": processor.eos_id(), "unk_id": processor.unk_id(),
    }
    return tokenizer, vocabulary, processor, special + added


class Family:
    def __init__(self, name):
        self.name = name
        self.processor = None
        if name == "sentencepiece":
            self.tokenizer, self.vocabulary, self.processor, self.matched = sentencepiece_bpe()
        else:
            self.tokenizer, self.vocabulary = byte_level(name)

    def case(self, text):
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if self.processor and text and not any(t in text for t in self.matched) and "\0" not in text:
            # Both oracles must agree; sentencepiece knows nothing of special tokens in the text.
            assert self.processor.encode(text) == ids, (text, ids, self.processor.encode(text))
        case = {"text": text, "ids": ids, "decoded": self.tokenizer.decode(ids, skip_special_tokens=False),
                "decoded_skip": self.tokenizer.decode(ids, skip_special_tokens=True)}
        if not self.processor:  # what the pre-tokenizer alone makes of the text, as byte counts
            words = self.tokenizer.pre_tokenizer.pre_tokenize_str(text)
            case["word_bytes"] = [len(text[begin:end].encode()) for _, (begin, end) in words]
        return case

    def decode_case(self, ids):
        """Any ids, so that the bytes are seldom UTF-8. Python itself is the oracle for those."""
        tokens, types = self.vocabulary["tokens"], self.vocabulary["token_types"]
        table = {bytes_char(b): b for b in range(256)}
        data = b""
        for i in ids:
            if types[i] in (2, 3, 4):
                data += tokens[i].encode()
            elif types[i] == 6:
                data += bytes([int(tokens[i][3:5], 16)])
            elif self.processor:
                data += tokens[i].replace("▁", " ").encode()
            else:
                data += bytes(table[c] for c in tokens[i])
        if self.vocabulary.get("add_space_prefix") and data[:1] == b" ":
            data = data[1:]
        return {"ids": ids, "decoded": data.decode("utf-8", errors="replace")}


FAMILIES = ["gpt2", "smollm", "llama3", "qwen2", "sentencepiece"]


def main():
    if sys.argv[1:2] == ["--texts"]:
        family, rng = Family(sys.argv[3]), random.Random()
        for _ in range(int(sys.argv[2])):
            print(json.dumps(family.case(random_text(rng))))
        return
    for name in FAMILIES:
        family, rng = Family(name), random.Random(name)
        cases = [family.case(t) for t in TEXTS + [random_text(rng) for _ in range(80)]]
        size = len(family.vocabulary["tokens"])
        decodes = [family.decode_case([rng.randrange(size) for _ in range(rng.randint(1, 12))]) for _ in range(100)]
        with open(HERE / f"{name}.json", "w") as out:
            out.write('{"vocabulary": ' + json.dumps(family.vocabulary) + ',\n"cases": [\n')
            out.write(",\n".join(json.dumps(c) for c in cases) + '\n],\n"decodes": [\n')
            out.write(",\n".join(json.dumps(c) for c in decodes) + "\n]}\n")
        print(name, size, "tokens,", len(cases), "cases")


if __name__ == "__main__":
    main()
