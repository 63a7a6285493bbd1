// What the engine tells its clients: one frame per step, for all sequences of one session. Plain
// values; made on the engine thread, handed over whole.
#ifndef PACELINE_WORKER_ENGINE_FRAME_H_
#define PACELINE_WORKER_ENGINE_FRAME_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/cache/prefix_cache.h"
#include "worker/core/request.h"

namespace paceline::worker {

// What one step added to one choice of one request.
struct SequenceResult {
  std::string request_id;
  int32_t attempt = 0;
  int32_t choice_index = 0;
  int32_t first_index = 0;  // output index of token_ids[0], replayed tokens included
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;  // one per token id when asked for
  FinishReason finish_reason = FinishReason::kNone;
  absl::Status error;  // not OK exactly when finish_reason is kError
  bool has_stop_token = false;
  int32_t stop_token_id = 0;
  // First result of a choice only:
  int32_t cached_tokens = 0;
  std::vector<TokenLogprobs> prompt_logprobs;  // one per prompt token when asked for
};

struct EngineLoad {
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t waiting_tokens = 0;
  int32_t free_blocks = 0;  // including cached blocks that nobody references
  int32_t total_blocks = 0;
  uint64_t step = 0;
  int32_t sessions = 0;
  bool is_draining = false;
};

struct Frame {
  std::vector<SequenceResult> results;
  KvEvents kv_events;     // changes of the prefix cache since the session's last frame
  bool kv_reset = false;  // forget everything known before applying kv_events
  EngineLoad load;
};

// A session's end of the engine's outbox. OnFrame runs on the engine thread and must not block.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  virtual void OnFrame(Frame frame) = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_ENGINE_FRAME_H_
