#include "kernels/emulation/grid.h"

#include <sanitizer/asan_interface.h>
#include <sched.h>

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"

namespace paceline::kernels::emulation {
namespace {

namespace context = boost::context;

constexpr int kWarpSize = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr unsigned char kPoison = 0xff;
constexpr int64_t kSharedAlignment = 1024;
constexpr uint32_t kFirstAddress = 1024;  // of shared memory
constexpr int64_t kPieceBytes = 16;       // of shared memory, whose copies are kept track of

// Stacks of fibres, kept for the next block. What a fibre left of the address sanitizer's marks
// when it was given up half-way goes with it.
class StackPool {
 public:
  context::stack_context allocate() {
    if (free_.empty()) return source_.allocate();
    const context::stack_context stack = free_.back();
    free_.pop_back();
    ASAN_UNPOISON_MEMORY_REGION(static_cast<char*>(stack.sp) - kStackBytes, kStackBytes);
    return stack;
  }
  void deallocate(context::stack_context& stack) { free_.push_back(stack); }

 private:
  context::protected_fixedsize_stack source_{kStackBytes};
  std::vector<context::stack_context> free_;
};

// A fibre's way to the pool, which lives as long as the process.
struct PooledStack {
  static StackPool& Pool() {
    static auto* const pool = new StackPool();
    return *pool;
  }
  context::stack_context allocate() { return Pool().allocate(); }
  void deallocate(context::stack_context& stack) { Pool().deallocate(stack); }
};

struct AsyncCopy {
  void* to;
  std::vector<char> bytes;
};

enum class State { kReady, kAtBarrier, kAtMeeting, kAtGroupMeeting, kPolling, kDone };

struct Thread {
  context::fiber fiber;
  State state = State::kReady;
  // While it waits.
  const char* operation = "";
  Location location;
  void* mine = nullptr;
  absl::FunctionRef<void(Lanes)>* meet = nullptr;
  absl::FunctionRef<void(const GroupLanes&)>* group_meet = nullptr;
  absl::FunctionRef<bool()>* is_there = nullptr;

  std::vector<AsyncCopy> collected;
  std::deque<std::vector<AsyncCopy>> groups;
};

// What ends a launch; only ever thrown through our own frames and a kernel's.
struct KernelError {
  std::string what;
};

class Block;
std::mutex g_launch;  // guards the two below
Block* g_block = nullptr;
std::mt19937_64 g_random(1);

class Block {
 public:
  Block(Index3 grid, Index3 size, Index3 position, int64_t shared_bytes)
      : grid_(grid),
        size_(size),
        position_(position),
        shared_bytes_(shared_bytes),
        shared_(shared_bytes + kSharedAlignment, static_cast<char>(kPoison)),
        copies_((shared_bytes + kPieceBytes - 1) / kPieceBytes, 0),
        threads_(size.x * size.y * size.z) {}

  // The error, or "". Returns when all threads are done, or none can go on before something comes
  // from outside; more calls go on.
  std::string Run(absl::FunctionRef<void()> body);
  bool is_done() const { return is_done_; }

  Index3 grid() const { return grid_; }
  Index3 size() const { return size_; }
  Index3 position() const { return position_; }
  Index3 thread_position() const {
    return {current_ % size_.x, current_ / size_.x % size_.y, current_ / (size_.x * size_.y)};
  }
  char* SharedMemory() {
    const auto address = reinterpret_cast<uintptr_t>(shared_.data());
    return shared_.data() + (kSharedAlignment - address % kSharedAlignment) % kSharedAlignment;
  }
  int64_t shared_bytes() const { return shared_bytes_; }
  // As products see it.
  char* SharedForProducts() {
    shared_for_products_.resize(shared_bytes_, static_cast<char>(kPoison));
    return shared_for_products_.data();
  }
  // A copy of the current thread begins to overwrite a piece, or has done so.
  void MarkCopy(const void* to, bool is_there);
  void FenceForProducts();
  std::shared_ptr<void>& state() { return state_; }
  Thread& current() { return threads_[current_]; }
  // Gives the processor back until somebody sets the state to ready.
  void Wait(State state, const char* operation, const Location& location);

 private:
  std::string Name(int32_t thread) const {
    return absl::StrCat(
        "block (", position_.x, ", ", position_.y, ", ", position_.z, "), thread ", thread);
  }
  std::string Place(const Thread& thread) const {
    return absl::StrCat(
        thread.operation, " at ", thread.location.file_name(), ":", thread.location.line());
  }
  void Start(int32_t i, absl::FunctionRef<void()> body);
  void Settle(int32_t thread);
  void MeetIfComplete(int32_t warp);
  void MeetGroupIfComplete(int32_t group);
  void PassBarrierIfComplete();
  [[noreturn]] void Fail(int32_t thread, const std::string& what) const {
    throw KernelError{absl::StrCat(Name(thread), ": ", what)};
  }

  const Index3 grid_;
  const Index3 size_;
  const Index3 position_;
  const int64_t shared_bytes_;
  std::vector<char> shared_;
  // Of each piece: 0, or a copy of thread abs - 1 that products do not see yet, negative while it
  // is under way.
  std::vector<int32_t> copies_;
  std::vector<char> shared_for_products_;
  std::shared_ptr<void> state_;
  std::vector<Thread> threads_;
  context::fiber scheduler_;
  int32_t current_ = 0;
  bool is_started_ = false;
  bool is_done_ = false;
  std::string error_;
};

void Block::Start(int32_t i, absl::FunctionRef<void()> body) {
  threads_[i].fiber = context::fiber(
      std::allocator_arg, PooledStack(), [this, i, body](context::fiber&& scheduler) {
        scheduler_ = std::move(scheduler);
        try {
          body();
        } catch (const KernelError& error) {
          error_ = error.what;
        }
        threads_[i].state = State::kDone;
        return std::move(scheduler_);
      });
}

std::string Block::Run(absl::FunctionRef<void()> body) {
  const auto num_threads = static_cast<int32_t>(threads_.size());
  for (int32_t i = 0; i < num_threads && !is_started_; ++i) Start(i, body);
  is_started_ = true;
  try {
    while (true) {
      std::vector<int32_t> ready;
      bool polls = false;
      is_done_ = true;
      for (int32_t i = 0; i < num_threads; ++i) {
        Thread& thread = threads_[i];
        if (thread.state == State::kPolling && (*thread.is_there)()) thread.state = State::kReady;
        if (thread.state == State::kReady) ready.push_back(i);
        polls |= thread.state == State::kPolling;
        is_done_ &= thread.state == State::kDone;
      }
      if (is_done_) break;
      if (ready.empty() && polls) break;
      if (ready.empty()) {
        for (int32_t i = 0; i < num_threads; ++i) {
          if (threads_[i].state != State::kDone) {
            Fail(i, absl::StrCat("waits for ever in ", Place(threads_[i])));
          }
        }
      }
      // A warp at a time is let run as far as it comes: any order of warps, and of their lanes.
      std::shuffle(ready.begin(), ready.end(), g_random);
      const int32_t warp = ready.front() / kWarpSize;
      for (const int32_t i : ready) {
        if (i / kWarpSize != warp || threads_[i].state != State::kReady) continue;
        current_ = i;
        threads_[i].fiber = std::move(threads_[i].fiber).resume();
        if (!error_.empty()) Fail(i, error_);
        Settle(i);
      }
    }
  } catch (const KernelError& error) {
    return error.what;
  }
  return "";
}

// After thread `i` stopped running.
void Block::Settle(int32_t i) {
  MeetIfComplete(i / kWarpSize);
  MeetGroupIfComplete(i / kGroupSize);
  PassBarrierIfComplete();
}

void Block::MeetIfComplete(int32_t warp) {
  Thread* const lanes = &threads_[warp * kWarpSize];
  int32_t first = -1;
  for (int32_t lane = 0; lane < kWarpSize; ++lane) {
    if (lanes[lane].state == State::kReady || lanes[lane].state == State::kPolling) return;
    if (lanes[lane].state == State::kAtMeeting && first < 0) first = lane;
  }
  if (first < 0) return;
  void* operands[kWarpSize];
  for (int32_t lane = 0; lane < kWarpSize; ++lane) {
    const int32_t thread = warp * kWarpSize + lane;
    if (lanes[lane].state == State::kDone) {
      Fail(thread, absl::StrCat("has returned, its warp is in ", Place(lanes[first])));
    }
    if (lanes[lane].state != State::kAtMeeting ||
        std::strcmp(lanes[lane].operation, lanes[first].operation) != 0 ||
        lanes[lane].location.line() != lanes[first].location.line()) {
      Fail(thread,
           absl::StrCat("is in ",
                        Place(lanes[lane]),
                        ", lane ",
                        first,
                        " of its warp in ",
                        Place(lanes[first])));
    }
    operands[lane] = lanes[lane].mine;
  }
  (*lanes[first].meet)(operands);
  for (int32_t lane = 0; lane < kWarpSize; ++lane) lanes[lane].state = State::kReady;
}

void Block::MeetGroupIfComplete(int32_t group) {
  const int32_t begin = group * kGroupSize;
  const auto end = std::min<int32_t>(begin + kGroupSize, static_cast<int32_t>(threads_.size()));
  int32_t first = -1;
  for (int32_t i = begin; i < end; ++i) {
    const State state = threads_[i].state;
    if (state == State::kReady || state == State::kPolling || state == State::kAtMeeting) return;
    if (state == State::kAtGroupMeeting && first < 0) first = i;
  }
  if (first < 0) return;
  if (end - begin < kGroupSize) {
    Fail(first, absl::StrCat("is in ", Place(threads_[first]), " without a whole warp group"));
  }
  void* operands[kGroupSize];
  for (int32_t i = begin; i < end; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state == State::kDone) {
      Fail(i, absl::StrCat("has returned, its warp group is in ", Place(threads_[first])));
    }
    if (thread.state != State::kAtGroupMeeting ||
        std::strcmp(thread.operation, threads_[first].operation) != 0 ||
        thread.location.line() != threads_[first].location.line()) {
      Fail(i,
           absl::StrCat("is in ",
                        Place(thread),
                        ", thread ",
                        first,
                        " of its warp group in ",
                        Place(threads_[first])));
    }
    operands[i - begin] = thread.mine;
  }
  (*threads_[first].group_meet)({operands, begin});
  for (int32_t i = begin; i < end; ++i) threads_[i].state = State::kReady;
}

void Block::PassBarrierIfComplete() {
  int32_t first = -1;
  for (size_t i = 0; i < threads_.size(); ++i) {
    const State state = threads_[i].state;
    if (state != State::kAtBarrier && state != State::kDone) return;
    if (threads_[i].state == State::kAtBarrier && first < 0) first = static_cast<int32_t>(i);
  }
  if (first < 0) return;
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (threads_[i].state != State::kAtBarrier) continue;
    if (threads_[i].location.line() != threads_[first].location.line()) {
      Fail(static_cast<int32_t>(i),
           absl::StrCat(
               "is in ", Place(threads_[i]), ", thread ", first, " in ", Place(threads_[first])));
    }
    threads_[i].state = State::kReady;
  }
}

void Block::MarkCopy(const void* to, bool is_there) {
  const int64_t offset = static_cast<const char*>(to) - SharedMemory();
  if (offset < 0 || offset >= shared_bytes_) return;
  copies_[offset / kPieceBytes] = is_there ? current_ + 1 : -(current_ + 1);
  if (!shared_for_products_.empty() && !is_there) {
    std::memset(shared_for_products_.data() + offset,
                kPoison,
                std::min(kPieceBytes, shared_bytes_ - offset));
  }
}

void Block::FenceForProducts() {
  char* const to = SharedForProducts();
  const char* const from = SharedMemory();
  for (size_t i = 0; i < copies_.size(); ++i) {
    if (copies_[i] == current_ + 1) copies_[i] = 0;
    if (copies_[i] != 0) continue;
    const auto offset = static_cast<int64_t>(i) * kPieceBytes;
    std::memcpy(to + offset, from + offset, std::min(kPieceBytes, shared_bytes_ - offset));
  }
}

void Block::Wait(State state, const char* operation, const Location& location) {
  Thread& self = current();
  self.state = state;
  self.operation = operation;
  self.location = location;
  scheduler_ = std::move(scheduler_).resume();
}

// Of two launches that wait for each other, block by block, each may have begun with another block;
// the rest they start in order, as a GPU does, so each soon comes to what the other waits for.
constexpr size_t kMostWaiting = 2;

bool Precedes(const Index3& a, const Index3& b) {
  return std::tie(a.z, a.y, a.x) < std::tie(b.z, b.y, b.x);
}

}  // namespace

void SetSeed(uint64_t seed) {
  const std::lock_guard lock(g_launch);
  g_random.seed(seed);
}

absl::Status Launch(Index3 grid,
                    Index3 block,
                    int64_t shared_bytes,
                    absl::FunctionRef<void()> body) {
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  if (threads <= 0 || threads > 1024 || threads % kWarpSize != 0 || grid.x < 0 || grid.y < 0 ||
      grid.z < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("launch of ", threads, " threads a block: a multiple of 32, at most 1024"));
  }
  std::unique_lock lock(g_launch);
  std::vector<Index3> positions;
  for (int32_t z = 0; z < grid.z; ++z) {
    for (int32_t y = 0; y < grid.y; ++y) {
      for (int32_t x = 0; x < grid.x; ++x) positions.push_back({x, y, z});
    }
  }
  std::shuffle(positions.begin(), positions.end(), g_random);
  std::list<Block> waiting;
  const auto run = [&](Block& running) {
    g_block = &running;
    std::string error = running.Run(body);
    g_block = nullptr;
    return error;
  };
  for (auto next = positions.begin(); next != positions.end() || !waiting.empty();) {
    if (next != positions.end() && waiting.size() < kMostWaiting) {
      waiting.emplace_back(grid, block, *next++, shared_bytes);
    } else {
      lock.unlock();
      sched_yield();
      lock.lock();
    }
    for (auto it = waiting.begin(); it != waiting.end();) {
      const std::string error = run(*it);
      if (!error.empty()) return absl::InternalError(error);
      it = it->is_done() ? waiting.erase(it) : std::next(it);
    }
    if (waiting.size() == 1) std::sort(next, positions.end(), Precedes);
  }
  return absl::OkStatus();
}

Index3 GridSize() { return g_block->grid(); }
Index3 BlockSize() { return g_block->size(); }
Index3 BlockPosition() { return g_block->position(); }
Index3 ThreadPosition() { return g_block->thread_position(); }
char* SharedMemory() { return g_block->SharedMemory(); }

void SyncBlock(const Location& location) {
  g_block->Wait(State::kAtBarrier, "SyncThreads", location);
}

void MeetWarp(const char* operation,
              const Location& location,
              void* mine,
              absl::FunctionRef<void(Lanes)> meet) {
  Thread& self = g_block->current();
  self.mine = mine;
  self.meet = &meet;
  g_block->Wait(State::kAtMeeting, operation, location);
}

void AwaitOutside(absl::FunctionRef<bool()> is_there, const Location& location) {
  if (is_there()) return;
  g_block->current().is_there = &is_there;
  g_block->Wait(State::kPolling, "AwaitOutside", location);
}

void MeetGroup(const char* operation,
               const Location& location,
               void* mine,
               absl::FunctionRef<void(const GroupLanes&)> meet) {
  Thread& self = g_block->current();
  self.mine = mine;
  self.group_meet = &meet;
  g_block->Wait(State::kAtGroupMeeting, operation, location);
}

uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(static_cast<const char*>(shared) - g_block->SharedMemory()) +
         kFirstAddress;
}
bool IsShared(uint32_t address, int32_t bytes) {
  return address >= kFirstAddress && address - kFirstAddress + bytes <= g_block->shared_bytes();
}
const char* AtAddress(uint32_t address) {
  return g_block->SharedMemory() + (address - kFirstAddress);
}
const char* AtAddressForProducts(uint32_t address) {
  return g_block->SharedForProducts() + (address - kFirstAddress);
}
void FenceSharedForProducts() { g_block->FenceForProducts(); }

std::shared_ptr<void>& BlockStatePointer() { return g_block->state(); }

void CopyAsync(void* to, const void* from, int32_t bytes, const Location& location) {
  const auto unaligned = [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % bytes != 0; };
  Check(!unaligned(to) && !unaligned(from), "CopyAsync: an address is not aligned", location);
  const char* const source = static_cast<const char*>(from);
  g_block->current().collected.push_back({to, {source, source + bytes}});
  std::memset(to, kPoison, bytes);
  g_block->MarkCopy(to, /*is_there=*/false);
}

void CommitCopies() {
  Thread& self = g_block->current();
  self.groups.push_back(std::move(self.collected));
  self.collected.clear();
}

void WaitForCopies(int32_t left) {
  Thread& self = g_block->current();
  while (static_cast<int32_t>(self.groups.size()) > left) {
    for (const AsyncCopy& copy : self.groups.front()) {
      std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
      g_block->MarkCopy(copy.to, /*is_there=*/true);
    }
    self.groups.pop_front();
  }
}

void Check(bool ok, const char* what, const Location& location) {
  if (ok) return;
  throw KernelError{absl::StrCat(what, " at ", location.file_name(), ":", location.line())};
}

}  // namespace paceline::kernels::emulation
