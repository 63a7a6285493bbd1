// Scheduler::CheckInvariants: recounts everything from the requests.
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/support/status_macros.h"
#include "worker/sched/request_group.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

struct Totals {
  int64_t sequences = 0;
  int64_t waiting = 0;
  int64_t forking = 0;
  int64_t running = 0;
  int64_t paused = 0;
  int64_t paused_holders = 0;
  int64_t slots = 0;
  int64_t waiting_tokens = 0;
  int64_t paused_tokens = 0;
  int64_t backlog = 0;
  int64_t deadlines = 0;
  std::vector<const BlockTable*> tables;
};

absl::Status Expect(absl::string_view what, int64_t counted, int64_t kept) {
  if (counted == kept) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": counted ", counted, ", kept ", kept));
}

void Count(const Sequence& s, Totals& totals) {
  const bool holds = !s.table.blocks.empty();
  ++totals.sequences;
  totals.waiting += s.state == Sequence::State::kWaiting;
  totals.forking += s.state == Sequence::State::kForking;
  totals.paused += s.state == Sequence::State::kPaused;
  totals.paused_holders += s.state == Sequence::State::kPaused && holds;
  if (s.state == Sequence::State::kWaiting) totals.waiting_tokens += s.num_tokens();
  if (s.state == Sequence::State::kPaused) totals.paused_tokens += s.num_tokens();
  if (s.state == Sequence::State::kRunning) {
    ++totals.running;
    totals.slots += s.num_slots;
    totals.backlog += std::max(0, s.num_remaining() - 1);
  }
  if (holds) totals.tables.push_back(&s.table);
}

}  // namespace

absl::Status Scheduler::CheckSequence(const Sequence& s) const {
  const bool holds = !s.table.blocks.empty();
  const bool may_hold = s.state == Sequence::State::kRunning || s.state == Sequence::State::kPaused;
  if (holds && !may_hold) return absl::InternalError("holds blocks though it does not run");
  if (s.state == Sequence::State::kRunning && !running_.Contains(&s)) {
    return absl::InternalError("not where running sequences are");
  }
  if (s.state == Sequence::State::kFinished) return absl::InternalError("finished and kept");
  if (s.num_computed >= s.num_tokens() || s.num_tokens() >= s.max_total_tokens) {
    return absl::InternalError("nothing left to compute");
  }
  if (s.num_computed > s.table.blocks.size() * cache_->block_size()) {
    return absl::InternalError("computed tokens without blocks");
  }
  if (s.in_batch && num_open_ == 0) return absl::InternalError("in no batch");
  return absl::OkStatus();
}

absl::Status Scheduler::CheckInvariants() const {
  Totals totals;
  const auto visit = [&](const RequestGroup& group) -> absl::Status {
    if (group.sequences.empty()) return absl::InternalError("a request without sequences");
    for (const auto& sequence : group.sequences) {
      RETURN_IF_ERROR(CheckSequence(*sequence));
      Count(*sequence, totals);
    }
    totals.deadlines += !group.detached && group.request->deadline_ns != 0;
    return absl::OkStatus();
  };
  for (const auto& [session, groups] : sessions_) {
    for (const auto& [id, group] : groups) RETURN_IF_ERROR(visit(*group));
  }
  for (const auto& group : detached_) RETURN_IF_ERROR(visit(*group));

  RETURN_IF_ERROR(Expect("sequences", totals.sequences, num_sequences_));
  RETURN_IF_ERROR(Expect("waiting", totals.waiting, static_cast<int64_t>(waiting_.size())));
  RETURN_IF_ERROR(Expect("forking", totals.forking, num_forking_));
  RETURN_IF_ERROR(Expect("running", totals.running, running_.size()));
  RETURN_IF_ERROR(Expect("paused", totals.paused, num_paused_));
  RETURN_IF_ERROR(Expect(
      "paused with blocks", totals.paused_holders, static_cast<int64_t>(paused_holders_.size())));
  RETURN_IF_ERROR(Expect("slots", totals.slots, slots_used_));
  RETURN_IF_ERROR(Expect("waiting tokens", totals.waiting_tokens, waiting_tokens_));
  RETURN_IF_ERROR(Expect("paused tokens", totals.paused_tokens, paused_tokens_));
  RETURN_IF_ERROR(Expect("backlog", totals.backlog, running_backlog_));
  RETURN_IF_ERROR(Expect("deadlines", totals.deadlines, static_cast<int64_t>(deadlines_.size())));
  if (slots_used_ > options_.max_num_seqs) return absl::InternalError("more than may run");
  RETURN_IF_ERROR(cache_->CheckReferences(totals.tables));
  return cache_->CheckInvariants();
}

}  // namespace paceline::worker
