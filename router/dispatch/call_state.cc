#include "router/dispatch/call_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "router/tenancy/api_keys.h"

namespace paceline::router {
namespace {

int32_t CodePoints(const std::string& text) {
  return static_cast<int32_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
}

bool IsEmpty(const v1::GenerateChunk& chunk) {
  return chunk.text().empty() && chunk.token_ids().empty() && chunk.logprobs().empty() &&
         chunk.prompt_logprobs().empty() && chunk.finish_reason() == v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

CallState::CallState(uint64_t id,
                     CallRequest request,
                     std::shared_ptr<CallSink> sink,
                     int64_t arrived_ns)
    : id(id), request(std::move(request)), sink(std::move(sink)), arrived_ns(arrived_ns) {}

void CallState::Begin(Prepared from, std::string drawn_request_id, uint64_t drawn_seed) {
  prepared = std::move(from);
  const ResolvedRequest& resolved = prepared.request;
  request_id = resolved.request_id.empty() ? std::move(drawn_request_id) : resolved.request_id;
  seed = resolved.seed.value_or(drawn_seed);
  worker_salt = TenantCacheSalt(request.tenant, resolved.cache_salt);
  choices.resize(resolved.n);
  OutputOptions output{
      .stops = resolved.stop.empty() ? nullptr : std::make_shared<const StopMatcher>(resolved.stop),
      .include_stop_text = resolved.include_stop_str_in_output,
      .min_tokens = resolved.sampling.min_tokens(),
      .skip_special_tokens = resolved.skip_special_tokens,
      .return_token_ids = resolved.return_token_ids,
      .text_offset = CodePoints(prepared.echo_text)};
  for (ChoiceState& choice : choices) {
    choice.output = std::make_unique<OutputAssembler>(model->text->tokenizer(), output);
  }
  pending = {{.first_choice = 0, .n = resolved.n}};
}

void CallState::TakePromptLogprobs(const v1::SequenceResult& result) {
  if (result.prompt_logprobs().empty() || !prompt_logprobs_.empty()) return;
  prompt_logprobs_.assign(result.prompt_logprobs().begin(), result.prompt_logprobs().end());
}

absl::Status CallState::Deliver(const v1::SequenceResult& result, int64_t now_ns) {
  ChoiceState& choice = choices[result.choice_index()];
  if (choice.is_done) return absl::OkStatus();
  const ResolvedRequest& resolved = prepared.request;
  const int32_t known = static_cast<int32_t>(choice.emitted.size());
  if (result.first_index() < 0 || result.first_index() > known) {
    return absl::InvalidArgumentError("first_index leaves a gap");
  }
  const int32_t skip = std::min(known - result.first_index(), result.token_ids_size());
  const int64_t total = static_cast<int64_t>(known) + result.token_ids_size() - skip;
  if (total > resolved.sampling.max_tokens()) {
    return absl::InvalidArgumentError("more than max_tokens");
  }
  for (const int32_t token : result.token_ids()) {
    if (token < 0 || token >= model->limits.vocab_size) {
      return absl::InvalidArgumentError("a token id is outside of the vocabulary");
    }
  }
  if (resolved.sampling.logprobs() >= 0 && result.logprobs_size() != result.token_ids_size()) {
    return absl::InvalidArgumentError("logprobs are missing");
  }
  if (result.cached_tokens() > 0 && cached_tokens == 0) {
    cached_tokens =
        std::min(result.cached_tokens(), static_cast<int32_t>(prepared.prompt_ids.size()));
  }
  v1::GenerateChunk chunk;
  if (result.token_ids_size() > skip) {
    if (first_token_ns == 0) first_token_ns = now_ns;
    choice.last_token_ns = last_token_ns = now_ns;
    AppendTokens(result, skip, choice, chunk);
  }
  if (!choice.is_done && result.finish_reason() != 0) FinishChoice(result, choice, chunk);
  Emit(result.choice_index(), choice, std::move(chunk));
  return absl::OkStatus();
}

void CallState::AppendTokens(const v1::SequenceResult& result,
                             int32_t skip,
                             ChoiceState& choice,
                             v1::GenerateChunk& chunk) {
  const bool has_logprobs = prepared.request.sampling.logprobs() >= 0;
  for (int32_t i = skip; i < result.token_ids_size(); ++i) {
    const int32_t token = result.token_ids(i);
    const v1::Logprobs* logprobs = has_logprobs ? &result.logprobs(i) : nullptr;
    choice.emitted.push_back(token);
    ++completion_tokens_;
    if (result.has_stop_token() && i + 1 == result.token_ids_size()) {
      choice.output->AppendStopToken(token, logprobs, chunk);
    } else if (choice.output->Append(token, logprobs, chunk)) {
      choice.is_done = true;
      chunk.set_finish_reason(v1::FINISH_REASON_STOP);
      chunk.set_stop_reason(choice.output->stop_text());
      return;  // what the worker generated beyond it was never said
    }
  }
}

void CallState::FinishChoice(const v1::SequenceResult& result,
                             ChoiceState& choice,
                             v1::GenerateChunk& chunk) {
  choice.is_done = true;
  choice.output->Finish(chunk);
  chunk.set_finish_reason(static_cast<v1::FinishReason>(result.finish_reason()));
  const auto& stop_ids = prepared.request.sampling.stop_token_ids();
  const bool is_asked_for =
      std::find(stop_ids.begin(), stop_ids.end(), result.stop_token_id()) != stop_ids.end();
  // The model's own end of sequence is no reason worth naming.
  if (result.has_stop_token() && is_asked_for) {
    chunk.set_stop_reason(absl::StrCat(result.stop_token_id()));
  }
}

void CallState::AppendPromptLogprobs(v1::GenerateChunk& chunk) const {
  const size_t count = std::min(prompt_logprobs_.size(), prepared.prompt_ids.size());
  for (size_t i = 0; i < count; ++i) {
    *chunk.add_prompt_logprobs() = ToTokenLogprob(
        *model->text->tokenizer(), prepared.prompt_ids[i], prompt_logprobs_[i], /*text_offset=*/0);
  }
}

void CallState::Emit(int32_t index, ChoiceState& choice, v1::GenerateChunk chunk) {
  choice.finish_reason = chunk.finish_reason();
  if (IsEmpty(chunk)) return;  // all text so far is held back
  if (!choice.is_begun) {
    choice.is_begun = true;
    if (prepared.request.echo) chunk.set_text(absl::StrCat(prepared.echo_text, chunk.text()));
  }
  if (!choice.has_prompt_logprobs && !prompt_logprobs_.empty()) {
    choice.has_prompt_logprobs = true;
    AppendPromptLogprobs(chunk);
  }
  if (!is_prompt_sent_) {
    is_prompt_sent_ = true;
    if (prepared.request.return_token_ids) {
      chunk.mutable_prompt_token_ids()->Add(prepared.prompt_ids.begin(), prepared.prompt_ids.end());
    }
  }
  chunk.set_request_id(request_id);
  chunk.set_model(model->info.id());
  chunk.set_choice_index(index);
  *chunk.mutable_usage() = UsageSoFar();
  sink->OnChunk(std::move(chunk));
}

v1::Submit CallState::MakeSubmit(const PendingPart& part,
                                 const std::string& traceparent,
                                 int64_t now_ns) const {
  const ChoiceState& choice = choices[part.first_choice];
  v1::Submit submit;
  submit.set_attempt(choice.attempts);
  submit.mutable_prompt_token_ids()->Reserve(
      static_cast<int>(prepared.prompt_ids.size() + choice.emitted.size()));
  submit.mutable_prompt_token_ids()->Add(prepared.prompt_ids.begin(), prepared.prompt_ids.end());
  submit.mutable_prompt_token_ids()->Add(choice.emitted.begin(), choice.emitted.end());
  submit.set_num_prompt_tokens(static_cast<int32_t>(prepared.prompt_ids.size()));
  *submit.mutable_sampling() = prepared.request.sampling;
  if (!prompt_logprobs_.empty()) submit.mutable_sampling()->set_prompt_logprobs(-1);
  submit.set_seed(seed);
  submit.set_n(part.n);
  submit.set_first_choice_index(part.first_choice);
  submit.set_cache_salt(worker_salt);
  submit.set_priority(prepared.request.priority);
  submit.set_traceparent(traceparent);
  if (deadline_ns > 0) {
    submit.set_deadline_ms(std::max<int64_t>(1, (deadline_ns - now_ns) / 1'000'000));
  }
  return submit;
}

const std::vector<BlockHash>& CallState::PrefixHashes(const std::string& model_digest,
                                                      int32_t block_size) {
  if (hashes_digest_ != model_digest || hashes_block_size_ != block_size) {
    hashes_digest_ = model_digest;
    hashes_block_size_ = block_size;
    hashes_ = HashFullBlocks(
        RootBlockHash(model_digest, "", worker_salt), prepared.prompt_ids, block_size);
  }
  return hashes_;
}

bool CallState::AllDone() const {
  return std::all_of(
      choices.begin(), choices.end(), [](const ChoiceState& choice) { return choice.is_done; });
}

v1::Usage CallState::UsageSoFar() const {
  v1::Usage usage;
  usage.set_prompt_tokens(static_cast<int32_t>(prepared.prompt_ids.size()));
  usage.set_completion_tokens(static_cast<int32_t>(completion_tokens_));
  usage.set_total_tokens(usage.prompt_tokens() + usage.completion_tokens());
  usage.set_cached_tokens(cached_tokens);
  return usage;
}

}  // namespace paceline::router
