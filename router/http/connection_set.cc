#include "router/http/connection_set.h"

#include <utility>

namespace paceline::router {

void ConnectionSet::Add(const std::shared_ptr<Connection>& connection) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[connection.get()];
  entry.connection = connection;
  entry.is_idle = true;
  entry.idle = idle_.insert(idle_.end(), connection.get());
}

void ConnectionSet::Remove(const Connection* connection) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(connection);
  if (it == entries_.end()) return;
  if (it->second.is_idle) idle_.erase(it->second.idle);
  if (it->second.is_leaving) --num_leaving_;
  entries_.erase(it);
  if (entries_.empty()) emptied_.notify_all();
}

void ConnectionSet::SetIdle(const Connection* connection, bool idle) {
  const std::lock_guard lock(mutex_);
  const auto it = entries_.find(connection);
  if (it == entries_.end()) return;
  if (!idle && std::exchange(it->second.is_leaving, false)) --num_leaving_;
  if (it->second.is_leaving || it->second.is_idle == idle) return;
  it->second.is_idle = idle;
  if (idle) {
    it->second.idle = idle_.insert(idle_.end(), connection);
  } else {
    idle_.erase(it->second.idle);
  }
}

std::shared_ptr<Connection> ConnectionSet::TakeOldestIdle() {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return nullptr;
  Entry& entry = entries_.at(idle_.front());
  idle_.pop_front();
  entry.is_idle = false;
  entry.is_leaving = true;
  ++num_leaving_;
  return entry.connection.lock();
}

std::vector<std::shared_ptr<Connection>> ConnectionSet::All() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Connection>> all;
  for (const auto& [key, entry] : entries_) {
    if (auto connection = entry.connection.lock()) all.push_back(std::move(connection));
  }
  return all;
}

size_t ConnectionSet::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

size_t ConnectionSet::num_staying() const {
  const std::lock_guard lock(mutex_);
  return entries_.size() - num_leaving_;
}

bool ConnectionSet::WaitUntilEmpty(std::chrono::nanoseconds timeout) const {
  std::unique_lock lock(mutex_);
  return emptied_.wait_for(lock, timeout, [this] { return entries_.empty(); });
}

}  // namespace paceline::router
