#include "worker/service/tokenizer_bundle.h"

#include "proto/tokenizer_digest.h"

namespace paceline::worker {

v1::TokenizerBundle ToProto(const model::Vocabulary& vocabulary) {
  v1::TokenizerBundle bundle;
  bundle.set_model(vocabulary.model);
  bundle.set_pre(vocabulary.pre);
  bundle.mutable_tokens()->Add(vocabulary.tokens.begin(), vocabulary.tokens.end());
  bundle.mutable_scores()->Add(vocabulary.scores.begin(), vocabulary.scores.end());
  bundle.mutable_token_types()->Add(vocabulary.token_types.begin(), vocabulary.token_types.end());
  bundle.mutable_merges()->Add(vocabulary.merges.begin(), vocabulary.merges.end());
  bundle.set_bos_id(vocabulary.bos_id);
  bundle.set_eos_id(vocabulary.eos_id);
  bundle.set_eot_id(vocabulary.eot_id);
  bundle.set_unk_id(vocabulary.unk_id);
  bundle.set_pad_id(vocabulary.pad_id);
  bundle.set_add_bos(vocabulary.add_bos);
  bundle.set_add_eos(vocabulary.add_eos);
  bundle.set_add_space_prefix(vocabulary.add_space_prefix);
  bundle.set_chat_template(vocabulary.chat_template);
  bundle.set_context_length(vocabulary.context_length);
  bundle.set_digest(TokenizerDigest(bundle));
  return bundle;
}

}  // namespace paceline::worker
