// A worker's tokenizer bundle as a vocabulary. Stateless; any thread. The way there is
// worker/service/tokenizer_bundle.h.
#ifndef PACELINE_ROUTER_TEXT_VOCABULARY_PROTO_H_
#define PACELINE_ROUTER_TEXT_VOCABULARY_PROTO_H_

#include "absl/status/statusor.h"
#include "model/tokenizer/vocabulary.h"
#include "proto/paceline/v1/worker.pb.h"

namespace paceline::router {

// DataLoss when the contents do not have the digest that the bundle states, InvalidArgument when
// they are no vocabulary that can be served (model::ValidateVocabulary).
absl::StatusOr<model::Vocabulary> VocabularyFromProto(const v1::TokenizerBundle& bundle);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_TEXT_VOCABULARY_PROTO_H_
