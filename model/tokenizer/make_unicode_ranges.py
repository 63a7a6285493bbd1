"""Writes unicode_ranges.inc: which code points are letters, numbers or white space.

The oracle is Hugging Face `tokenizers` itself (its regex engine's tables), because its pre-tokenizers
are what models were trained with. Run by hand when a newer Unicode matters:
    pip install tokenizers==0.23.3 && python3 make_unicode_ranges.py > unicode_ranges.inc
"""
import tokenizers
from tokenizers import Regex, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matching(pre_tokenizer):
    """The code points that `pre_tokenizer` isolates when they stand between dashes."""
    found = set()
    for start in range(0, len(CODE_POINTS), 2000):
        block = CODE_POINTS[start : start + 2000]
        text = "".join("-" + chr(c) for c in block)
        for _, (begin, end) in pre_tokenizer.pre_tokenize_str(text):
            if end - begin == 1 and begin % 2 == 1:
                found.add(block[begin // 2])
    return found


def ranges(code_points):
    result = []
    for c in sorted(code_points):
        if result and result[-1][1] == c - 1:
            result[-1][1] = c
        else:
            result.append([c, c])
    return result


def write(name, code_points):
    print(f"constexpr CodePointRange {name}[] = {{")
    line = "   "
    for first, last in ranges(code_points):
        item = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


print(f"// Made by make_unicode_ranges.py from Hugging Face tokenizers {tokenizers.__version__}.")
numbers = matching(pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"))
write("kLetterRanges", matching(pre_tokenizers.Split(Regex(r"\p{L}"), "isolated")))
write("kNumberRanges", numbers)
write("kSpaceRanges", matching(pre_tokenizers.Split(Regex(r"\s"), "isolated")))
print("// Numbers of a newer Unicode, which only the digit splitter of `tokenizers` knows.")
write("kNewNumberRanges", matching(pre_tokenizers.Digits(individual_digits=True)) - numbers)
