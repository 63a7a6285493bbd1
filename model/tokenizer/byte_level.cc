#include "model/tokenizer/byte_level.h"

#include <array>

#include "model/tokenizer/utf8.h"

namespace paceline::model {
namespace {

constexpr uint32_t kAlphabetEnd = 0x144;  // the last character is U+0143

// Printable Latin-1 bytes stand for themselves, the other 68 are numbered from U+0100.
constexpr bool StandsForItself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<uint16_t, 256> code_point{};
  std::array<int16_t, kAlphabetEnd> byte{};  // -1: not in the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.byte) byte = -1;
  uint16_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint16_t c = StandsForItself(byte) ? static_cast<uint16_t>(byte) : next++;
    alphabet.code_point[byte] = c;
    alphabet.byte[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

std::string ByteLevelChar(uint8_t byte) {
  const uint32_t c = kAlphabet.code_point[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

bool AppendByteLevelDecoded(std::string_view token, std::string& out) {
  const size_t start = out.size();
  for (size_t pos = 0; pos < token.size();) {
    const Utf8Char c = Utf8At(token, pos);
    if (c.code_point >= kAlphabetEnd || kAlphabet.byte[c.code_point] < 0) {
      out.resize(start);
      return false;
    }
    out.push_back(static_cast<char>(kAlphabet.byte[c.code_point]));
    pos += c.bytes;
  }
  return true;
}

}  // namespace paceline::model
