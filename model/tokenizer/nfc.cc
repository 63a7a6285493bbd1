#include "model/tokenizer/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "model/tokenizer/utf8.h"

namespace paceline::model {
namespace {

constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

void AppendDecomposed(uint32_t code_point, std::vector<utf8proc_int32_t>& out) {
  utf8proc_int32_t parts[16];  // a canonical decomposition has at most 4
  int last_boundclass = 0;
  const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point),
                                                     parts,
                                                     std::size(parts),
                                                     kOptions,
                                                     &last_boundclass);
  out.insert(out.end(), parts, parts + n);
}

// Canonical order: each run of combining marks, stably by class. utf8proc's own sort is quadratic
// in the run's length, which a user chooses.
void OrderMarks(std::vector<utf8proc_int32_t>& code_points) {
  const auto is_mark = [](utf8proc_int32_t c) { return CombiningClass(c) != 0; };
  auto begin = code_points.begin();
  while ((begin = std::find_if(begin, code_points.end(), is_mark)) != code_points.end()) {
    const auto end = std::find_if_not(begin, code_points.end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    begin = end;
  }
}

// Composes and appends `code_points`, which hold valid text, decomposed; empties them.
void AppendComposed(std::vector<utf8proc_int32_t>& code_points, std::string& out) {
  OrderMarks(code_points);
  const utf8proc_ssize_t n = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()), kOptions);
  for (utf8proc_ssize_t i = 0; i < n; ++i) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t length = utf8proc_encode_char(code_points[i], bytes);
    out.append(reinterpret_cast<const char*>(bytes), length);
  }
  code_points.clear();
}

}  // namespace

bool NormalizeNfc(std::string_view text, std::string& normalized) {
  const auto is_ascii = [](char c) { return static_cast<uint8_t>(c) < 0x80; };
  if (std::all_of(text.begin(), text.end(), is_ascii)) return false;
  normalized.clear();
  normalized.reserve(text.size());
  std::vector<utf8proc_int32_t> code_points;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = Utf8At(text, pos);
    if (c.code_point != kInvalidByte) {
      AppendDecomposed(c.code_point, code_points);
    } else {
      AppendComposed(code_points, normalized);
      normalized.push_back(text[pos]);
    }
    pos += c.bytes;
  }
  AppendComposed(code_points, normalized);
  return true;
}

}  // namespace paceline::model
