#include "router/text/vocabulary_proto.h"

#include "absl/status/status.h"
#include "proto/support/status_macros.h"
#include "proto/tokenizer_digest.h"

namespace paceline::router {

absl::StatusOr<model::Vocabulary> VocabularyFromProto(const v1::TokenizerBundle& bundle) {
  if (TokenizerDigest(bundle) != bundle.digest()) {
    return absl::DataLossError("the tokenizer bundle's contents do not have its digest");
  }
  model::Vocabulary vocabulary = {
      .model = bundle.model(),
      .pre = bundle.pre(),
      .tokens = {bundle.tokens().begin(), bundle.tokens().end()},
      .scores = {bundle.scores().begin(), bundle.scores().end()},
      .token_types = {bundle.token_types().begin(), bundle.token_types().end()},
      .merges = {bundle.merges().begin(), bundle.merges().end()},
      .bos_id = bundle.bos_id(),
      .eos_id = bundle.eos_id(),
      .eot_id = bundle.eot_id(),
      .unk_id = bundle.unk_id(),
      .pad_id = bundle.pad_id(),
      .add_bos = bundle.add_bos(),
      .add_eos = bundle.add_eos(),
      .add_space_prefix = bundle.add_space_prefix(),
      .chat_template = bundle.chat_template(),
      .context_length = bundle.context_length(),
  };
  RETURN_IF_ERROR(model::ValidateVocabulary(vocabulary));
  return vocabulary;
}

}  // namespace paceline::router
