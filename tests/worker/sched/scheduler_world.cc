#include "tests/worker/sched/scheduler_world.h"

#include <tuple>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"

namespace paceline::worker {
namespace {

constexpr uint64_t kPoison = 0xbad;

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a ^ (b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2));
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return (x ^ (x >> 31)) | 1ULL << 63;  // never a small constant
}

}  // namespace

SchedulerWorld::Options SchedulerWorld::SmallOptions() {
  Options options;
  options.cache.num_blocks = 64;
  options.cache.block_size = 4;
  options.cache.model_digest = "digest";
  options.scheduler.max_num_seqs = 8;
  options.scheduler.max_num_batched_tokens = 32;
  options.scheduler.max_model_len = 200;
  options.scheduler.vocab_size = 50;
  options.scheduler.eos_token_ids = {0};
  return options;
}

Request SchedulerWorld::MakeRequest(std::string id,
                                    int32_t prompt_tokens,
                                    int32_t max_tokens,
                                    int32_t prompt_seed) {
  Request request;
  request.id = std::move(id);
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    request.token_ids.push_back(static_cast<int32_t>(Mix(prompt_seed, i) % 49) + 1);
  }
  request.num_prompt_tokens = prompt_tokens;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

SchedulerWorld::SchedulerWorld(Options options)
    : options_(std::move(options)),
      cache_(options_.cache),
      scheduler_(options_.scheduler, &cache_),
      kv_(size_t{1} * options_.cache.num_blocks * options_.cache.block_size, 0),
      written_in_(kv_.size(), -1) {}

absl::Status SchedulerWorld::Add(Request request) {
  auto shared = std::make_shared<const Request>(std::move(request));
  absl::Status status = scheduler_.Add(shared, clock_.NowNs());
  if (!status.ok()) return status;
  Live live{shared, next_number_++, {}, false};
  for (int32_t i = 0; i < shared->n; ++i) live.choices.insert(shared->first_choice_index + i);
  live_[{shared->session, shared->id}] = std::move(live);
  return status;
}

void SchedulerWorld::Pause(const std::string& id, uint64_t session) {
  scheduler_.Pause(session, id);
  if (auto it = live_.find({session, id}); it != live_.end()) it->second.paused = true;
}

void SchedulerWorld::Resume(const std::string& id, uint64_t session) {
  scheduler_.Resume(session, id);
  if (auto it = live_.find({session, id}); it != live_.end()) it->second.paused = false;
}

uint64_t SchedulerWorld::KvRoot(const Request& request) const {
  uint64_t kv = 1;
  for (const char c : request.cache_salt) kv = Mix(kv, static_cast<uint64_t>(c));
  return kv;
}

uint64_t SchedulerWorld::KvAfter(const Request& request, uint64_t before, int32_t token) const {
  return Mix(before, static_cast<uint64_t>(token));
}

int32_t SchedulerWorld::NextToken(const Request& request, int32_t choice, uint64_t kv) const {
  return static_cast<int32_t>(Mix(Mix(kv, request.seed), choice) % options_.scheduler.vocab_size);
}

bool SchedulerWorld::Lists(const std::map<std::string, int32_t>& indices,
                           const Request& request,
                           int32_t output_index) {
  const auto it = indices.find(request.id);
  return it != indices.end() && it->second == output_index;
}

SchedulerWorld::Result SchedulerWorld::Expected(const Request& request,
                                                int32_t choice_index) const {
  Result result;
  std::vector<int32_t> tokens = request.token_ids;
  uint64_t kv = KvRoot(request);
  for (const int32_t token : tokens) kv = KvAfter(request, kv, token);
  while (result.reason == FinishReason::kNone) {
    const int32_t index = static_cast<int32_t>(tokens.size()) - request.num_prompt_tokens;
    const bool bad = Lists(options_.numeric_errors, request, index);
    if (bad || Lists(options_.no_candidates, request, index)) {
      result.reason = FinishReason::kError;
      result.code = bad ? absl::StatusCode::kDataLoss : absl::StatusCode::kInvalidArgument;
      break;
    }
    const int32_t token = NextToken(request, choice_index, kv);
    tokens.push_back(token);
    kv = KvAfter(request, kv, token);
    const SamplingParams& s = request.sampling;
    bool stops = token == 0 && !s.ignore_eos;
    for (const int32_t id : s.stop_token_ids) stops = stops || id == token;
    if (stops && index >= s.min_tokens) {
      result.reason = FinishReason::kStop;
      result.has_stop_token = true;
      result.stop_token_id = token;
    } else if (index + 1 == s.max_tokens ||
               static_cast<int32_t>(tokens.size()) == options_.scheduler.max_model_len) {
      result.reason = FinishReason::kLength;
    }
  }
  result.output.assign(tokens.begin() + request.num_prompt_tokens, tokens.end());
  return result;
}

const Batch& SchedulerWorld::Plan() {
  batch_ = &scheduler_.Next(clock_.NowNs());
  Collect();  // what expired
  CheckProgress(*batch_);
  if (!batch_->empty()) open_.push_back(batch_);
  return *batch_;
}

bool SchedulerWorld::PlanAhead() {
  if (!options_.scheduler.runs_ahead || num_open() != 1) return false;
  const Batch& batch = scheduler_.NextAhead(clock_.NowNs());
  Collect();  // what expired
  if (batch.empty()) return false;
  const int32_t block_size = options_.cache.block_size;
  for (const BatchEntry& entry : batch.entries) {
    const Sequence& s = *entry.sequence;
    PACELINE_CHECK(entry.num_tokens == 1 && entry.first_position == s.num_tokens() &&
                       s.num_tokens() + 1 < s.max_total_tokens,
                   "ahead of what is known by one token that is wanted");
    const int32_t block = s.block_table()[entry.first_position / block_size];
    ahead_slots_[&batch][&s] = int64_t{block} * block_size + entry.first_position % block_size;
  }
  open_.push_back(&batch);
  ++num_ahead_;
  return true;
}

void SchedulerWorld::RunDropped(const Batch& batch) {
  std::map<const Sequence*, int64_t> slots = std::move(ahead_slots_[&batch]);
  ahead_slots_.erase(&batch);
  for (const BatchEntry& entry : batch.entries) slots.erase(entry.sequence);
  for (const auto& [sequence, slot] : slots) {
    kv_[slot] = unsound_.contains(sequence) ? kPoison : 0x60057;
    ++num_dropped_;
  }
}

bool SchedulerWorld::IsOpen(const std::shared_ptr<const Request>& request, int32_t choice) const {
  for (const Batch* batch : open_) {
    for (const BatchEntry& entry : batch->entries) {
      if (entry.sequence->request != request) continue;
      if (entry.sequence->choice_index == choice || entry.samplers.size() > 1) return true;
    }
  }
  return false;
}

// The first runnable choice in order is in a batch, or waits for open ones; the budget holds;
// nobody is in two batches.
void SchedulerWorld::CheckProgress(const Batch& batch) const {
  const Live* head = nullptr;
  for (const auto& [key, live] : live_) {
    const int64_t deadline_ns = live.request->deadline_ns;
    bool is_open = false;
    for (const int32_t choice : live.choices) is_open = is_open || IsOpen(live.request, choice);
    PACELINE_CHECK(deadline_ns == 0 || deadline_ns > clock_.NowNs() || is_open,
                   "outlives its deadline");
    if (live.paused || live.choices.empty()) continue;
    const auto order = std::tuple(live.request->priority, live.number);
    if (head == nullptr || order < std::tuple(head->request->priority, head->number)) head = &live;
  }
  // One that is about to leave may still be ahead of the head.
  bool head_runs = false;
  for (const Batch* open : open_) {
    for (const BatchEntry& entry : open->entries) {
      head_runs = head_runs || entry.sequence->pending != Sequence::Pending::kNone;
    }
  }
  int32_t num_tokens = 0;
  int32_t num_samplers = 0;
  for (const BatchEntry& entry : batch.entries) {
    PACELINE_CHECK(entry.num_tokens > 0, "an entry without tokens");
    for (const Batch* open : open_) {
      for (const BatchEntry& other : open->entries) {
        PACELINE_CHECK(other.sequence != entry.sequence, "in two batches at once");
      }
    }
    num_tokens += entry.num_tokens;
    num_samplers += static_cast<int32_t>(entry.samplers.size());
    head_runs = head_runs || (head != nullptr && entry.sequence->request == head->request &&
                              entry.sequence->choice_index == *head->choices.begin());
  }
  if (open_.empty()) {
    PACELINE_CHECK((head != nullptr) == !batch.empty(), "empty exactly when nothing is runnable");
  }
  head_runs = head_runs || (head != nullptr && IsOpen(head->request, *head->choices.begin()));
  PACELINE_CHECK(head == nullptr || head_runs || batch.empty(),
                 "the first in order makes no progress");
  PACELINE_CHECK(num_tokens == batch.num_tokens && num_samplers == batch.num_samplers, "sums");
  PACELINE_CHECK(num_tokens <= options_.scheduler.max_num_batched_tokens, "over the budget");
  PACELINE_CHECK(num_samplers <= options_.scheduler.max_num_seqs, "more rows than sequences");
}

void SchedulerWorld::PrepareBlocks(const Batch& batch) {
  const int32_t block_size = options_.cache.block_size;
  std::set<int32_t> sources;
  std::set<int32_t> destinations;
  for (const int32_t block : batch.zero_blocks) {
    std::fill_n(kv_.begin() + int64_t{block} * block_size, block_size, 0);
  }
  for (const BlockCopy& copy : batch.copies) {
    sources.insert(copy.source);
    PACELINE_CHECK(destinations.insert(copy.destination).second, "two copies to one block");
    std::copy_n(kv_.begin() + int64_t{copy.source} * block_size,
                block_size,
                kv_.begin() + int64_t{copy.destination} * block_size);
    ++num_copies_;
  }
  for (const int32_t block : destinations) {
    PACELINE_CHECK(!sources.contains(block), "a block is both source and destination");
  }
}

void SchedulerWorld::RunEntry(const BatchEntry& entry, std::vector<Sampled>& sampled) {
  const Sequence& s = *entry.sequence;
  const Request& request = *s.request;
  const int32_t block_size = options_.cache.block_size;
  PACELINE_CHECK(entry.first_position == s.num_computed, "a gap in the positions");
  const absl::Span<const int32_t> table = s.block_table();
  const int32_t end = entry.first_position + entry.num_tokens;
  PACELINE_CHECK(end <= static_cast<int32_t>(table.size()) * block_size, "no slot");
  uint64_t kv = KvRoot(request);
  for (int32_t position = 0; position < end; ++position) {
    kv = KvAfter(request, kv, s.token_ids[position]);
    const int64_t slot = int64_t{table[position / block_size]} * block_size + position % block_size;
    if (position < entry.first_position) {
      PACELINE_CHECK(kv_[slot] == kv, "a block shows another past");
    } else {
      PACELINE_CHECK(written_in_[slot] != num_steps_, "two writers of one slot");
      written_in_[slot] = num_steps_;
      kv_[slot] = kv;
    }
  }
  // Masked slots are multiplied by zero, so they must not hold a NaN either. (A block more may be
  // there for the step ahead, which zeroes it first.)
  for (const int32_t block : table.first((end + block_size - 1) / block_size)) {
    for (int32_t i = 0; i < block_size; ++i) {
      PACELINE_CHECK(kv_[int64_t{block} * block_size + i] != kPoison, "a poisoned block is reused");
    }
  }
  for (Sequence* sampler : entry.samplers) {
    PACELINE_CHECK(sampler->token_ids == s.token_ids, "a sampler with other tokens");
    const int32_t index = sampler->num_output_tokens();
    const bool bad = Lists(options_.numeric_errors, request, index);
    const bool none = !bad && Lists(options_.no_candidates, request, index);
    const int32_t token = bad || none ? -1 : NextToken(request, sampler->choice_index, kv);
    sampled.push_back({sampler, token, bad, none});
    if (!bad) continue;
    unsound_.insert(sampler);
    const int32_t last = end - 1;
    kv_[int64_t{table[last / block_size]} * block_size + last % block_size] = kPoison;
  }
}

void SchedulerWorld::Run() {
  ++num_steps_;
  const Batch& batch = *open_.front();
  PrepareBlocks(batch);
  RunDropped(batch);
  std::vector<Sampled> sampled;
  unsound_.clear();
  for (const BatchEntry& entry : batch.entries) RunEntry(entry, sampled);
  open_.pop_front();
  clock_.AdvanceMs(1);
  scheduler_.Commit(sampled, clock_.NowNs());
  Collect();
  if (options_.check_every_step) {
    const absl::Status status = scheduler_.CheckInvariants();
    PACELINE_CHECK(status.ok(), status.ToString());
  }
}

bool SchedulerWorld::Step() {
  while (CanPlan() && !Plan().empty()) {
  }
  PlanAhead();
  if (open_.empty()) return false;
  Run();
  return true;
}

void SchedulerWorld::Drain(int32_t limit) {
  while (Step()) PACELINE_CHECK(--limit >= 0, "does not end");
}

void SchedulerWorld::Collect() {
  scheduler_.TakeFinished(finished_);
  for (const Finished& finished : finished_) {
    const Sequence& s = *finished.sequence;
    const Request& request = *s.request;
    PACELINE_CHECK(s.state == Sequence::State::kFinished && s.table.blocks.empty(), "not over");
    Result result;
    result.reason = finished.reason;
    result.code = finished.status.code();
    result.output.assign(s.output().begin(), s.output().end());
    result.cached_tokens = s.cached_tokens;
    result.num_preemptions = s.num_preemptions;
    result.has_stop_token = finished.has_stop_token;
    result.stop_token_id = finished.stop_token_id;
    result.step = num_steps_;

    PACELINE_CHECK(finished.reason != FinishReason::kDeadline ||
                       (request.deadline_ns != 0 && request.deadline_ns <= clock_.NowNs()),
                   "expired early");
    const Result expected = Expected(request, s.choice_index);
    if (finished.reason == FinishReason::kCancelled || finished.reason == FinishReason::kDeadline) {
      PACELINE_CHECK(
          result.output.size() <= expected.output.size() &&
              std::equal(result.output.begin(), result.output.end(), expected.output.begin()),
          "the output is no prefix of the expected");
    } else {
      PACELINE_CHECK(result.output == expected.output, "another output than alone");
      PACELINE_CHECK(result.reason == expected.reason && result.code == expected.code, "reason");
      PACELINE_CHECK(result.has_stop_token == expected.has_stop_token &&
                         result.stop_token_id == expected.stop_token_id,
                     "stop token");
    }
    // A cancelled request's id may already be in use again: live_ then is the new one's.
    const auto it = live_.find({request.session, request.id});
    if (it != live_.end() && it->second.request == s.request) {
      PACELINE_CHECK(it->second.choices.erase(s.choice_index) == 1, "finished twice");
      if (it->second.choices.empty()) live_.erase(it);
    }
    results_[{request.id, s.choice_index}] = std::move(result);
  }
  finished_.clear();
}

const BatchEntry* SchedulerWorld::EntryOf(const std::string& id) const {
  for (const BatchEntry& entry : batch_->entries) {
    if (entry.sequence->request->id == id) return &entry;
  }
  return nullptr;
}

absl::Status SchedulerWorld::CheckEmpty() const {
  if (scheduler_.num_sequences() != 0 || !live_.empty()) {
    return absl::InternalError("sequences are left");
  }
  const KvCache::Stats stats = cache_.stats();
  if (stats.used != 0 || stats.free + stats.evictable != stats.total) {
    return absl::InternalError(absl::StrCat(stats.used, " blocks are used by nobody"));
  }
  return scheduler_.CheckInvariants();
}

}  // namespace paceline::worker
