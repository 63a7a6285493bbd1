// Any bytes as text, with any ranges of it untrusted, in every tokenizer family: ids are in the
// vocabulary, nothing is lost, no special token comes out of untrusted bytes, and decoding in steps
// gives the text that decoding at once gives. The second half of the input is taken as ids.
//
// Input: family, number of untrusted ranges n, 2n bytes of range lengths (trusted, untrusted, …),
// text.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/incremental_decoder.h"
#include "model/tokenizer/utf8.h"
#include "proto/support/log.h"
#include "tests/model/tokenizer/tokenizer_cases.h"

namespace paceline::model {
namespace {

struct Family {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool keeps_bytes;  // TokenBytes of the ids are the text's bytes
};

const std::vector<Family>& Families() {
  static const auto* const families =
      new std::vector<Family>{{FamilyTokenizer("smollm"), true},
                              {FamilyTokenizer("llama3"), true},
                              {FamilyTokenizer("gpt2"), false},
                              {FamilyTokenizer("qwen2"), false},
                              {FamilyTokenizer("sentencepiece"), false}};
  return *families;
}

struct Input {
  const Family* family = nullptr;
  std::vector<TextSpan> untrusted;
  std::string_view text;
};

Input Parse(std::string_view data) {
  const auto take = [&data]() -> uint8_t {
    if (data.empty()) return 0;
    const auto byte = static_cast<uint8_t>(data[0]);
    data.remove_prefix(1);
    return byte;
  };
  Input input;
  input.family = &Families()[take() % Families().size()];
  size_t begin = 0;
  for (int n = take() % 8; n > 0; --n) {
    begin += take();
    const size_t end = begin + take();
    input.untrusted.push_back({begin, end});
    begin = end;
  }
  input.text = data;
  return input;
}

void CheckEncode(const Input& input) {
  const Tokenizer& tokenizer = *input.family->tokenizer;
  const auto ids = tokenizer.Encode(input.text, {.untrusted = input.untrusted});
  std::string bytes;
  for (const int32_t id : ids) {
    PACELINE_CHECK(id >= 0 && id < tokenizer.vocab_size(), "id outside the vocabulary");
    const size_t begin = bytes.size();
    bytes += tokenizer.TokenBytes(id);
    if (!input.family->keeps_bytes || !tokenizer.IsSpecial(id)) continue;
    for (const TextSpan& span : input.untrusted) {
      PACELINE_CHECK(span.begin >= span.end || bytes.size() <= span.begin || begin >= span.end,
                     "special token out of untrusted text");
    }
  }
  PACELINE_CHECK(!input.family->keeps_bytes || bytes == input.text, "encoding changed the text");
  for (const int32_t id : tokenizer.Encode(input.text, {.parse_special = false})) {
    PACELINE_CHECK(!tokenizer.IsSpecial(id) || id == tokenizer.vocabulary().unk_id,
                   "special token out of plain text");
  }
}

void CheckDecode(const Input& input) {
  const Tokenizer& tokenizer = *input.family->tokenizer;
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 1 < input.text.size(); i += 2) {
    const int32_t id =
        static_cast<uint8_t>(input.text[i]) << 8 | static_cast<uint8_t>(input.text[i + 1]);
    ids.push_back(id % (tokenizer.vocab_size() + 1));
  }
  for (const bool skip_special : {false, true}) {
    IncrementalDecoder decoder(input.family->tokenizer, skip_special);
    std::string text;
    for (const int32_t id : ids) {
      const std::string step = decoder.Append(id);
      PACELINE_CHECK(IsValidUtf8(step), "a step is not UTF-8");
      text += step;
    }
    text += decoder.Finish();
    PACELINE_CHECK(text == tokenizer.Decode(ids, skip_special), "steps differ from the whole");
  }
}

}  // namespace
}  // namespace paceline::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace paceline::model;
  const Input input = Parse({reinterpret_cast<const char*>(data), size});
  CheckEncode(input);
  CheckDecode(input);
  return 0;
}
