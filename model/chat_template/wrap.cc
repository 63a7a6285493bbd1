#include "model/chat_template/wrap.h"

#include <string_view>

#include "model/chat_template/unicode.h"

namespace paceline::model {
namespace {

struct Chunk {
  TextSpan span;
  size_t width = 0;  // code points
  bool blank = false;
};

bool IsAsciiSpace(char c) { return (c >= 9 && c <= 13) || c == ' '; }

// Runs of space and of words; with `hyphens`, words end after a hyphen between letters.
std::vector<Chunk> Split(std::string_view text, TextSpan line, bool hyphens) {
  std::vector<Chunk> chunks;
  size_t begin = line.begin;
  const auto close = [&](size_t end) {
    if (end == begin) return;
    chunks.push_back({{begin, end},
                      CountCodePoints(text.substr(begin, end - begin)),
                      IsAsciiSpace(text[begin])});
    begin = end;
  };
  for (size_t pos = line.begin; pos < line.end;) {
    const CodePoint c = DecodeCodePoint(text, pos);
    if (pos > begin && IsAsciiSpace(text[pos]) != IsAsciiSpace(text[begin])) close(pos);
    pos += c.bytes;
    if (!hyphens || c.value != '-' || pos >= line.end || pos < begin + 2) continue;
    const CodePoint before = DecodeCodePoint(text, PreviousCodePoint(text, pos - 1));
    const CodePoint after = DecodeCodePoint(text, pos);
    const size_t second = pos + after.bytes;
    const bool letters_follow =
        IsAlpha(after.value) && second < line.end && IsAlpha(DecodeCodePoint(text, second).value);
    const size_t before_at = PreviousCodePoint(text, pos - 1);
    const bool letters_precede =
        IsAlpha(before.value) && before_at > begin &&
        IsAlpha(DecodeCodePoint(text, PreviousCodePoint(text, before_at)).value);
    if (letters_follow && letters_precede) close(pos);
  }
  close(line.end);
  return chunks;
}

size_t SkipCodePoints(std::string_view text, size_t pos, size_t count) {
  for (; count > 0; --count) pos += DecodeCodePoint(text, pos).bytes;
  return pos;
}

// How many code points of a chunk that is too long go onto a line with room for `room`.
size_t FittingPart(std::string_view text, const Chunk& chunk, size_t room, bool hyphens) {
  if (!hyphens || chunk.width <= room) return room;
  size_t part = room;
  bool other_seen = false;
  size_t pos = chunk.span.begin;
  for (size_t i = 0; i < room; ++i) {
    const CodePoint c = DecodeCodePoint(text, pos);
    if (c.value == '-' && other_seen) part = i + 1;
    other_seen = other_seen || c.value != '-';
    pos += c.bytes;
  }
  return part;
}

}  // namespace

std::vector<TextSpan> WrapLine(
    const Text& text, TextSpan line, size_t width, bool break_long_words, bool break_on_hyphens) {
  std::vector<Chunk> chunks = Split(text.bytes, line, break_on_hyphens);
  std::vector<TextSpan> lines;
  size_t next = 0;
  while (next < chunks.size()) {
    if (chunks[next].blank && !lines.empty()) ++next;
    if (next >= chunks.size()) break;
    const size_t first = next;
    size_t used = 0;
    while (next < chunks.size() && used + chunks[next].width <= width) used += chunks[next++].width;
    size_t end = next > first ? chunks[next - 1].span.end : chunks[first].span.begin;
    const size_t begin = chunks[first].span.begin;
    size_t last = next;  // one past the last whole chunk of this line
    bool partial = false;
    if (next < chunks.size() && chunks[next].width > width) {
      Chunk& chunk = chunks[next];
      if (break_long_words) {
        // What fits of the word, up to its last hyphen there; nothing of it still keeps the space
        // before it from being dropped, as in Python.
        const size_t take = FittingPart(text.bytes, chunk, width - used, break_on_hyphens);
        end = SkipCodePoints(text.bytes, chunk.span.begin, take);
        chunk.span.begin = end;
        chunk.width -= take;
        partial = true;
      } else if (!break_long_words && next == first) {
        end = chunk.span.end;
        last = ++next;
      }
    }
    if (!partial && last > first && chunks[last - 1].blank) {
      --last;
      end = last > first ? chunks[last - 1].span.end : begin;
    }
    if (end > begin) lines.push_back({begin, end});
  }
  return lines;
}

}  // namespace paceline::model
