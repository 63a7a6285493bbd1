// Requests that wait for a replica: bounded in number and in prompt tokens over all models, fair
// over tenants by virtual token counters (the tenant that was served the fewest tokens goes first;
// Sheng et al., OSDI 2024), by priority and then by age within a tenant. Priorities do not reach
// across tenants: they would undo the fairness. Owned by Dispatcher; the router's loop thread only.
#ifndef PACELINE_ROUTER_ADMISSION_FAIR_QUEUE_H_
#define PACELINE_ROUTER_ADMISSION_FAIR_QUEUE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"

namespace paceline::router {

struct QueueOptions {
  int64_t max_requests = 1024;
  // A single request may exceed it when nothing else waits.
  int64_t max_prompt_tokens = 2 << 20;
};

struct QueueItem {
  uint64_t id = 0;
  std::string model;
  std::string tenant;
  int32_t priority = 0;  // lower goes first
  int64_t prompt_tokens = 0;
  int64_t enqueued_ns = 0;
};

class FairQueue {
 public:
  explicit FairQueue(const QueueOptions& options) : options_(options) {}

  // What waits beyond new limits stays.
  void SetOptions(const QueueOptions& options) { options_ = options; }

  // Whether `more_requests` with together `prompt_tokens` may still be queued.
  bool HasRoom(int64_t more_requests, int64_t prompt_tokens) const;
  // REQUIRES: HasRoom, and no item with this id.
  void Push(QueueItem item);
  // The item of `model` that goes next; nullptr when none waits. Valid until the next call.
  const QueueItem* Next(const std::string& model) const;
  // Removes an item, because it was started, cancelled or expired; nullopt when it is not queued.
  std::optional<QueueItem> Remove(uint64_t id);
  // Counts `tokens` of service for `tenant`.
  void Charge(const std::string& tenant, int64_t tokens);

  int64_t num_requests() const { return static_cast<int64_t>(items_.size()); }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t num_requests(const std::string& model) const;
  // When the oldest waiting item came; 0 when none waits.
  int64_t oldest_ns() const;

 private:
  using Order = std::tuple<int32_t, uint64_t>;    // priority, serial
  using Line = absl::btree_map<Order, uint64_t>;  // to item id
  struct Tenant {
    int64_t served_tokens = 0;
    int64_t queued = 0;
  };
  struct Entry {
    QueueItem item;
    Order order;
  };

  QueueOptions options_;
  absl::flat_hash_map<uint64_t, Entry> items_;
  // model → tenant → line; only lines that are not empty.
  absl::flat_hash_map<std::string, absl::btree_map<std::string, Line>> lines_;
  absl::flat_hash_map<std::string, Tenant> tenants_;
  absl::btree_map<uint64_t, int64_t> ages_;  // serial → enqueued_ns
  int64_t prompt_tokens_ = 0;
  // Where a tenant starts that comes when nobody waits: the last one's counter.
  int64_t floor_tokens_ = 0;
  uint64_t next_serial_ = 0;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_ADMISSION_FAIR_QUEUE_H_
