// Any vocabulary: refused, or a tokenizer that encodes and decodes. Input: lines. The first is
// model and pre-tokenizer with a space between them, then come tokens ("1 text": type, text),
// scores ("s 1.5"), merges ("m a b") and ids ("i 3": bos, eos, eot, unknown, padding).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/incremental_decoder.h"
#include "model/tokenizer/utf8.h"
#include "proto/support/log.h"

namespace paceline::model {
namespace {

std::string_view TakeUntil(std::string_view& text, char end) {
  const size_t at = std::min(text.find(end), text.size());
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(std::min(at + 1, text.size()));
  return part;
}

Vocabulary Parse(std::string_view data) {
  Vocabulary v;
  std::string_view line = TakeUntil(data, '\n');
  v.model = std::string(TakeUntil(line, ' '));
  v.pre = std::string(line);
  v.add_space_prefix = v.model == "llama";
  int32_t* const ids[] = {&v.bos_id, &v.eos_id, &v.eot_id, &v.unk_id, &v.pad_id};
  size_t num_ids = 0;
  while (!data.empty()) {
    line = TakeUntil(data, '\n');
    const std::string kind(TakeUntil(line, ' '));
    const std::string rest(line);
    if (kind == "m") {
      v.merges.push_back(rest);
    } else if (kind == "s") {
      v.scores.push_back(std::strtof(rest.c_str(), nullptr));
    } else if (kind == "i" && num_ids < std::size(ids)) {
      *ids[num_ids++] = static_cast<int32_t>(std::strtol(rest.c_str(), nullptr, 10));
    } else {
      v.tokens.push_back(rest);
      v.token_types.push_back(static_cast<int32_t>(std::strtol(kind.c_str(), nullptr, 10)));
    }
  }
  return v;
}

void CheckTokenizer(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text) {
  for (const bool parse_special : {true, false}) {
    const auto ids =
        tokenizer->Encode(text, {.parse_special = parse_special, .add_special = parse_special});
    IncrementalDecoder decoder(tokenizer, /*skip_special=*/false);
    std::string decoded;
    for (const int32_t id : ids) {
      PACELINE_CHECK(id >= 0 && id < tokenizer->vocab_size(), "id outside the vocabulary");
      PACELINE_CHECK(
          parse_special || !tokenizer->IsSpecial(id) || id == tokenizer->vocabulary().unk_id,
          "special token out of plain text");
      decoded += decoder.Append(id);
    }
    decoded += decoder.Finish();
    PACELINE_CHECK(decoded == tokenizer->Decode(ids, false), "steps differ from the whole");
    PACELINE_CHECK(IsValidUtf8(decoded), "text is not UTF-8");
  }
}

}  // namespace
}  // namespace paceline::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace paceline::model;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  auto tokenizer = Tokenizer::Create(Parse(input));
  if (!tokenizer.ok()) return 0;
  CheckTokenizer(*tokenizer, "a");
  CheckTokenizer(*tokenizer, input);
  return 0;
}
