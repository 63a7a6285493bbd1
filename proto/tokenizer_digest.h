// The name of a tokenizer's contents: worker and router compute it over the same bundle and must
// agree. Stateless; any thread.
#ifndef PACELINE_PROTO_TOKENIZER_DIGEST_H_
#define PACELINE_PROTO_TOKENIZER_DIGEST_H_

#include <string>

#include "proto/paceline/v1/worker.pb.h"

namespace paceline {

// 32 hexadecimal digits (128 bits) over every field of `bundle` but `digest`. Tells contents apart
// and finds damage; it is no defence against forgery.
std::string TokenizerDigest(const v1::TokenizerBundle& bundle);

}  // namespace paceline

#endif  // PACELINE_PROTO_TOKENIZER_DIGEST_H_
