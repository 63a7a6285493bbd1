// A vocabulary as the message that the router gets. Stateless; any thread. The way back is
// router/text/vocabulary_proto.h.
#ifndef PACELINE_WORKER_SERVICE_TOKENIZER_BUNDLE_H_
#define PACELINE_WORKER_SERVICE_TOKENIZER_BUNDLE_H_

#include "model/tokenizer/vocabulary.h"
#include "proto/paceline/v1/worker.pb.h"

namespace paceline::worker {

// With its digest set.
v1::TokenizerBundle ToProto(const model::Vocabulary& vocabulary);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SERVICE_TOKENIZER_BUNDLE_H_
