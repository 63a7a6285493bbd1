#include "router/admission/fair_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "proto/support/log.h"

namespace paceline::router {
namespace {

// Tenants without anything queued are forgotten beyond so many.
constexpr size_t kMaxIdleTenants = 4096;

}  // namespace

bool FairQueue::HasRoom(int64_t more_requests, int64_t prompt_tokens) const {
  if (num_requests() + more_requests > options_.max_requests) return false;
  return prompt_tokens_ == 0 || prompt_tokens_ + prompt_tokens <= options_.max_prompt_tokens;
}

void FairQueue::Push(QueueItem item) {
  Tenant& tenant = tenants_[item.tenant];
  if (tenant.queued++ == 0) {
    // What a tenant did not use while it had nothing to ask for is not saved up.
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const auto& [name, other] : tenants_) {
      if (other.queued > 0 && &other != &tenant) least = std::min(least, other.served_tokens);
    }
    if (least == std::numeric_limits<int64_t>::max()) least = floor_tokens_;
    tenant.served_tokens = std::max(tenant.served_tokens, least);
  }
  const uint64_t serial = next_serial_++;
  const Order order{item.priority, serial};
  prompt_tokens_ += item.prompt_tokens;
  ages_[serial] = item.enqueued_ns;
  lines_[item.model][item.tenant].emplace(order, item.id);
  const uint64_t id = item.id;
  const bool inserted =
      items_.try_emplace(id, Entry{.item = std::move(item), .order = order}).second;
  PACELINE_CHECK(inserted, "a request was queued twice");
}

const QueueItem* FairQueue::Next(const std::string& model) const {
  const auto lines = lines_.find(model);
  if (lines == lines_.end()) return nullptr;
  const Line* best = nullptr;
  std::pair<int64_t, Order> best_rank;
  for (const auto& [tenant, line] : lines->second) {
    const std::pair<int64_t, Order> rank{tenants_.at(tenant).served_tokens, line.begin()->first};
    if (best == nullptr || rank < best_rank) {
      best = &line;
      best_rank = rank;
    }
  }
  return &items_.at(best->begin()->second).item;
}

std::optional<QueueItem> FairQueue::Remove(uint64_t id) {
  const auto found = items_.find(id);
  if (found == items_.end()) return std::nullopt;
  QueueItem item = std::move(found->second.item);
  const Order order = found->second.order;
  items_.erase(found);

  auto lines = lines_.find(item.model);
  auto line = lines->second.find(item.tenant);
  line->second.erase(order);
  if (line->second.empty()) lines->second.erase(line);
  if (lines->second.empty()) lines_.erase(lines);
  ages_.erase(std::get<1>(order));
  prompt_tokens_ -= item.prompt_tokens;

  Tenant& tenant = tenants_[item.tenant];
  if (--tenant.queued == 0) {
    floor_tokens_ = std::max(floor_tokens_, tenant.served_tokens);
    if (tenants_.size() > kMaxIdleTenants) {
      absl::erase_if(tenants_, [](const auto& entry) { return entry.second.queued == 0; });
    }
  }
  return item;
}

void FairQueue::Charge(const std::string& tenant, int64_t tokens) {
  const auto found = tenants_.find(tenant);
  if (found != tenants_.end()) found->second.served_tokens += tokens;
}

int64_t FairQueue::num_requests(const std::string& model) const {
  const auto lines = lines_.find(model);
  if (lines == lines_.end()) return 0;
  int64_t count = 0;
  for (const auto& [tenant, line] : lines->second) count += static_cast<int64_t>(line.size());
  return count;
}

int64_t FairQueue::oldest_ns() const { return ages_.empty() ? 0 : ages_.begin()->second; }

}  // namespace paceline::router
