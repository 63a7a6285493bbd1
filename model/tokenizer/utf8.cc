#include "model/tokenizer/utf8.h"

namespace paceline::model {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What a first byte says about its character; length 0: no character starts so.
struct Lead {
  uint8_t length;
  uint8_t low;  // the second byte's range, narrower than 80..BF for E0, ED, F0 and F4
  uint8_t high;
};

constexpr Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0x80, 0xBF};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char Utf8At(std::string_view text, size_t pos) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data()) + pos;
  if (bytes[0] < 0x80) return {bytes[0], 1};
  const Lead lead = LeadOf(bytes[0]);
  if (lead.length == 0 || lead.length > text.size() - pos || bytes[1] < lead.low ||
      bytes[1] > lead.high) {
    return {kInvalidByte, 1};
  }
  uint32_t code_point = bytes[0] & (0x7Fu >> lead.length);
  for (uint32_t i = 1; i < lead.length; ++i) {
    if ((bytes[i] & 0xC0) != 0x80) return {kInvalidByte, 1};
    code_point = code_point << 6 | (bytes[i] & 0x3Fu);
  }
  return {code_point, lead.length};
}

bool IsValidUtf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = Utf8At(text, pos);
    if (c.code_point == kInvalidByte) return false;
    pos += c.bytes;
  }
  return true;
}

void Utf8Stream::Append(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) AppendByte(static_cast<uint8_t>(byte), out);
}

void Utf8Stream::AppendByte(uint8_t byte, std::string& out) {
  if (num_missing_ > 0) {
    if (byte < next_low_ || byte > next_high_) {
      Finish(out);  // and `byte` starts anew
    } else {
      pending_[num_pending_++] = static_cast<char>(byte);
      next_low_ = 0x80;
      next_high_ = 0xBF;
      if (--num_missing_ == 0) {
        out.append(pending_, num_pending_);
        num_pending_ = 0;
      }
      return;
    }
  }
  const Lead lead = LeadOf(byte);
  if (lead.length == 1) {
    out.push_back(static_cast<char>(byte));
  } else if (lead.length == 0) {
    out.append(kReplacement);
  } else {
    pending_[0] = static_cast<char>(byte);
    num_pending_ = 1;
    num_missing_ = lead.length - 1;
    next_low_ = lead.low;
    next_high_ = lead.high;
  }
}

void Utf8Stream::Finish(std::string& out) {
  if (num_missing_ > 0) out.append(kReplacement);
  num_pending_ = 0;
  num_missing_ = 0;
}

}  // namespace paceline::model
