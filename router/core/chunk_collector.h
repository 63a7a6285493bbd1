// Puts the chunks of one call together to a whole answer. Owned by the call's sink; not
// thread-safe.
#ifndef PACELINE_ROUTER_CORE_CHUNK_COLLECTOR_H_
#define PACELINE_ROUTER_CORE_CHUNK_COLLECTOR_H_

#include <cstdint>
#include <ctime>
#include <map>
#include <utility>

#include "proto/paceline/v1/inference.pb.h"

namespace paceline::router {

// Appends `chunk` (of the same choice) to `base`; finish reason and usage are the newer ones.
inline void AppendChunk(v1::GenerateChunk& base, v1::GenerateChunk&& chunk) {
  base.mutable_text()->append(chunk.text());
  base.mutable_token_ids()->MergeFrom(chunk.token_ids());
  base.mutable_logprobs()->MergeFrom(chunk.logprobs());
  base.mutable_prompt_token_ids()->MergeFrom(chunk.prompt_token_ids());
  base.mutable_prompt_logprobs()->MergeFrom(chunk.prompt_logprobs());
  if (chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
    base.set_finish_reason(chunk.finish_reason());
    base.set_stop_reason(std::move(*chunk.mutable_stop_reason()));
  }
  if (chunk.has_usage()) *base.mutable_usage() = chunk.usage();
}

class ChunkCollector {
 public:
  void Add(v1::GenerateChunk chunk) {
    if (request_id_.empty()) request_id_ = chunk.request_id();
    if (model_.empty()) model_ = chunk.model();
    const int32_t index = chunk.choice_index();
    const auto [it, inserted] = choices_.try_emplace(index);
    if (inserted) {
      it->second = std::move(chunk);
    } else {
      AppendChunk(it->second, std::move(chunk));
    }
  }

  // The whole answer, choices by index. Leaves the collector empty.
  v1::GenerateResponse Take(const v1::Usage& usage) {
    v1::GenerateResponse response;
    response.set_request_id(std::move(request_id_));
    response.set_model(std::move(model_));
    response.set_created_unix_seconds(std::time(nullptr));
    *response.mutable_usage() = usage;
    for (auto& [index, chunk] : choices_) {
      if (response.prompt_token_ids().empty()) {
        response.mutable_prompt_token_ids()->Swap(chunk.mutable_prompt_token_ids());
      }
      v1::Choice& choice = *response.add_choices();
      choice.set_index(index);
      choice.set_text(std::move(*chunk.mutable_text()));
      choice.mutable_token_ids()->Swap(chunk.mutable_token_ids());
      choice.mutable_logprobs()->Swap(chunk.mutable_logprobs());
      choice.set_finish_reason(chunk.finish_reason());
      choice.set_stop_reason(std::move(*chunk.mutable_stop_reason()));
      choice.mutable_prompt_logprobs()->Swap(chunk.mutable_prompt_logprobs());
    }
    choices_.clear();
    return response;
  }

 private:
  std::string request_id_;
  std::string model_;
  std::map<int32_t, v1::GenerateChunk> choices_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_CORE_CHUNK_COLLECTOR_H_
