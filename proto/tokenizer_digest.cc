#include "proto/tokenizer_digest.h"

#include <bit>
#include <cstdint>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "proto/block_hash.h"

namespace paceline {
namespace {

// The fields one after another, each with its length or of a fixed width, so that no two bundles
// have the same bytes. Independent of protobuf's encoding.
class Fields {
 public:
  void Add(uint64_t number) {
    for (int i = 0; i < 8; ++i) bytes_.push_back(static_cast<char>(number >> (8 * i)));
  }
  void Add(std::string_view text) {
    Add(text.size());
    bytes_.append(text);
  }
  template <typename Strings>
  void AddAll(const Strings& strings) {
    Add(static_cast<uint64_t>(strings.size()));
    for (const std::string& s : strings) Add(std::string_view(s));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

uint64_t Word(int32_t value) { return static_cast<uint32_t>(value); }

}  // namespace

std::string TokenizerDigest(const v1::TokenizerBundle& bundle) {
  Fields fields;
  fields.Add(std::string_view(bundle.model()));
  fields.Add(std::string_view(bundle.pre()));
  fields.AddAll(bundle.tokens());
  fields.Add(Word(bundle.scores_size()));
  for (float score : bundle.scores()) fields.Add(uint64_t{std::bit_cast<uint32_t>(score)});
  fields.Add(Word(bundle.token_types_size()));
  for (int32_t type : bundle.token_types()) fields.Add(Word(type));
  fields.AddAll(bundle.merges());
  for (int32_t id :
       {bundle.bos_id(), bundle.eos_id(), bundle.eot_id(), bundle.unk_id(), bundle.pad_id()}) {
    fields.Add(Word(id));
  }
  for (bool flag : {bundle.add_bos(), bundle.add_eos(), bundle.add_space_prefix()}) {
    fields.Add(uint64_t{flag ? 1u : 0u});
  }
  fields.Add(std::string_view(bundle.chat_template()));
  fields.Add(Word(bundle.context_length()));
  const BlockHash hash = RootBlockHash(fields.bytes(), "tokenizer", "");
  return absl::StrCat(absl::Hex(hash.high, absl::kZeroPad16),
                      absl::Hex(hash.low, absl::kZeroPad16));
}

}  // namespace paceline
