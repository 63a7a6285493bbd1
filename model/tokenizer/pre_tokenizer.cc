#include "model/tokenizer/pre_tokenizer.h"

#include "model/tokenizer/unicode_class.h"
#include "model/tokenizer/utf8.h"

namespace paceline::model {
namespace {

using Class = UnicodeClass;

// One character with its class. kNewNumber never shows here: see Segment::At.
struct Char {
  uint32_t code_point = kInvalidByte;
  uint32_t bytes = 0;  // 0: end of the text
  Class unicode_class = Class::kOther;
  bool Is(Class c) const { return bytes > 0 && unicode_class == c; }
  bool IsNewline() const { return code_point == '\r' || code_point == '\n'; }
};

// The text that a pattern runs on. Every member takes a byte position and returns one.
struct Segment {
  std::string_view text;

  Char At(size_t pos) const {
    if (pos >= text.size()) return {};
    const Utf8Char c = Utf8At(text, pos);
    const Class unicode_class = UnicodeClassOf(c.code_point);
    return {
        c.code_point, c.bytes, unicode_class == Class::kNewNumber ? Class::kOther : unicode_class};
  }

  // Behind the run of characters of class `c` at `pos`, at most `limit` of them.
  size_t RunEnd(size_t pos, Class c, size_t limit = SIZE_MAX) const {
    for (; limit > 0; --limit) {
      const Char next = At(pos);
      if (!next.Is(c)) break;
      pos += next.bytes;
    }
    return pos;
  }

  size_t NewlinesEnd(size_t pos) const {
    while (pos < text.size() && (text[pos] == '\r' || text[pos] == '\n')) ++pos;
    return pos;
  }

  // Behind '\s+(?!\S)|\s+' at the space `pos`: a run of spaces leaves its last one to the word that
  // follows, if there is one and the run has two.
  size_t SpacesEnd(size_t pos) const {
    size_t last = pos;
    size_t end = pos;
    for (Char c = At(end); c.Is(Class::kSpace); c = At(end)) {
      last = end;
      end += c.bytes;
    }
    return end == text.size() || last == pos ? end : last;
  }

  // Behind '\s*[\r\n]+' at the space `pos`; `pos` itself when that does not match.
  size_t SpacesWithNewlineEnd(size_t pos) const {
    size_t end = pos;
    for (Char c = At(pos); c.Is(Class::kSpace); c = At(pos)) {
      pos += c.bytes;
      if (c.IsNewline()) end = pos;
    }
    return end;
  }

  // The bytes of the English contraction ('s, 're, …) at the apostrophe `pos`; 0 when there is
  // none. Without case, U+017F (long s) is an s too.
  size_t ContractionBytes(size_t pos, bool ignore_case) const {
    const auto letter = [&](size_t i) -> char {
      if (i >= text.size()) return 0;
      const char c = text[i];
      return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char first = letter(pos + 1);
    const char second = letter(pos + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if ((first == 'r' || first == 'v') && second == 'e') return 3;
    if (first == 'l' && second == 'l') return 3;
    if (ignore_case && text.substr(pos + 1, 2) == "\xC5\xBF") return 3;
    return 0;
  }
};

// Behind the word at `pos`, by the GPT-2 pattern.
size_t Gpt2WordEnd(const Segment& segment, size_t pos) {
  const Char c = segment.At(pos);
  if (c.code_point == '\'') {
    if (const size_t bytes = segment.ContractionBytes(pos, false); bytes > 0) return pos + bytes;
  }
  if (c.unicode_class != Class::kSpace) return segment.RunEnd(pos, c.unicode_class);
  if (c.code_point == ' ') {
    const Char next = segment.At(pos + 1);
    if (next.bytes > 0 && next.unicode_class != Class::kSpace) {
      return segment.RunEnd(pos + 1, next.unicode_class);
    }
  }
  return segment.SpacesEnd(pos);
}

// Behind the word at `pos`, by the Llama 3 pattern with \p{N}{1,max_digits}.
size_t Llama3WordEnd(const Segment& segment, size_t pos, size_t max_digits) {
  const Char c = segment.At(pos);
  if (c.code_point == '\'') {
    if (const size_t bytes = segment.ContractionBytes(pos, true); bytes > 0) return pos + bytes;
  }
  if (c.Is(Class::kLetter)) return segment.RunEnd(pos, Class::kLetter);
  if (c.Is(Class::kNumber)) return segment.RunEnd(pos, Class::kNumber, max_digits);
  const Char next = segment.At(pos + c.bytes);
  if (!c.IsNewline() && next.Is(Class::kLetter)) {
    return segment.RunEnd(pos + c.bytes, Class::kLetter);
  }
  if (c.Is(Class::kOther)) return segment.NewlinesEnd(segment.RunEnd(pos, Class::kOther));
  if (c.code_point == ' ' && next.Is(Class::kOther)) {
    return segment.NewlinesEnd(segment.RunEnd(pos + 1, Class::kOther));
  }
  if (const size_t end = segment.SpacesWithNewlineEnd(pos); end > pos) return end;
  return segment.SpacesEnd(pos);
}

template <typename WordEnd>
void SplitSegment(std::string_view text,
                  absl::FunctionRef<void(std::string_view)> word,
                  WordEnd word_end) {
  const Segment segment{text};
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = word_end(segment, pos);
    word(text.substr(pos, end - pos));
    pos = end;
  }
}

void SplitSmollm(std::string_view text, absl::FunctionRef<void(std::string_view)> word) {
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = Utf8At(text, pos);
    const Class unicode_class = UnicodeClassOf(c.code_point);
    if (unicode_class == Class::kNumber || unicode_class == Class::kNewNumber) {
      SplitSegment(text.substr(begin, pos - begin), word, Gpt2WordEnd);
      word(text.substr(pos, c.bytes));
      begin = pos + c.bytes;
    }
    pos += c.bytes;
  }
  SplitSegment(text.substr(begin), word, Gpt2WordEnd);
}

}  // namespace

std::optional<PreTokenizer> PreTokenizerByName(std::string_view name) {
  if (name == "default" || name == "gpt-2") return PreTokenizer::kGpt2;
  if (name == "smollm") return PreTokenizer::kSmollm;
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") return PreTokenizer::kLlama3;
  if (name == "qwen2") return PreTokenizer::kQwen2;
  return std::nullopt;
}

void SplitWords(PreTokenizer pre_tokenizer,
                std::string_view text,
                absl::FunctionRef<void(std::string_view)> word) {
  switch (pre_tokenizer) {
    case PreTokenizer::kGpt2:
      return SplitSegment(text, word, Gpt2WordEnd);
    case PreTokenizer::kSmollm:
      return SplitSmollm(text, word);
    case PreTokenizer::kLlama3:
      return SplitSegment(text, word, [](const Segment& segment, size_t pos) {
        return Llama3WordEnd(segment, pos, 3);
      });
    case PreTokenizer::kQwen2:
      return SplitSegment(text, word, [](const Segment& segment, size_t pos) {
        return Llama3WordEnd(segment, pos, 1);
      });
  }
}

}  // namespace paceline::model
