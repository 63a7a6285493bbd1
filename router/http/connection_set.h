// Which connections a server has, for its cap and for stopping. Owned by the server; any thread.
#ifndef PACELINE_ROUTER_HTTP_CONNECTION_SET_H_
#define PACELINE_ROUTER_HTTP_CONNECTION_SET_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace paceline::router {

class Connection;

// The server's connections, and which of them wait for a request, oldest first. Any thread.
class ConnectionSet {
 public:
  // A new connection is idle.
  void Add(const std::shared_ptr<Connection>& connection);
  void Remove(const Connection* connection);
  void SetIdle(const Connection* connection, bool idle);
  // The connection that has been idle longest, which then counts as idle no longer, and in
  // num_staying only once it is busy again; null when none is idle.
  std::shared_ptr<Connection> TakeOldestIdle();
  std::vector<std::shared_ptr<Connection>> All() const;
  size_t size() const;
  size_t num_staying() const;
  // Waits until the set is empty; false when `timeout` passed first.
  bool WaitUntilEmpty(std::chrono::nanoseconds timeout) const;

 private:
  struct Entry {
    std::weak_ptr<Connection> connection;
    std::list<const Connection*>::iterator idle;  // valid when is_idle
    bool is_idle = false;
    bool is_leaving = false;
  };
  mutable std::mutex mutex_;  // guards everything below
  mutable std::condition_variable emptied_;
  std::unordered_map<const Connection*, Entry> entries_;
  std::list<const Connection*> idle_;
  size_t num_leaving_ = 0;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_CONNECTION_SET_H_
