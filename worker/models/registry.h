// Architectures by their name in the model file. To add one: <arch>.cc with a factory, and one line
// in registry.cc. Stateless; any thread.
#ifndef PACELINE_WORKER_MODELS_REGISTRY_H_
#define PACELINE_WORKER_MODELS_REGISTRY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/gemm/activations.h"
#include "kernels/tensor_view.h"
#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "worker/comm/communicator.h"
#include "worker/models/causal_lm.h"
#include "worker/models/exchange_times.h"
#include "worker/models/partition.h"
#include "worker/weights/weight_loader.h"

namespace paceline::worker {

// Where a model runs that does not run on the CPU.
struct DevicePlace {
  int32_t index = 0;                             // of the device
  kernels::DType dtype = kernels::DType::kBF16;  // of activations: kBF16 or kF16
  double memory_utilization = 0.9;               // of all its memory, for this process
  std::string nccl_library = "libnccl.so.2";     // what several ranks would exchange with
  bool nccl_shares_devices = false;              // NCCL lets ranks have a device in common
  bool wgmma_prefill = false;                    // prefill attention by a Hopper's warp groups
  // Of what a rank gives to an exchange: as much goes over memory that devices share, if they do,
  // and more over NCCL; 0: nothing. A guess until it is measured (tests/gpu/exchange_bench.cc):
  // kernels of this kind are said to win up to some hundred KB.
  int64_t peer_bytes = int64_t{512} << 10;
  int64_t timed_passes = 128;  // one of so many has its exchanges timed
};

struct ModelOptions {
  kernels::ComputeType compute = kernels::ComputeType::kInt8;  // of the CPU
  DevicePlace device;
  kernels::DType kv_dtype = kernels::DType::kF16;
  int64_t kv_cache_bytes = 0;    // of the replica, all ranks together; 0: what the device has left
  int32_t max_batch_tokens = 0;  // rows of one Forward at most
  int32_t max_positions = 0;     // tokens of one sequence at most
  RankPlace place;
  TensorMode tensor_mode = TensorMode::kExact;
  // Of several ranks: all of them, and what their devices' exchanges take. Outlive the model; null:
  // one rank alone.
  Communicator* replica = nullptr;
  ExchangeTimes* exchange_times = nullptr;
};

// Bytes of one block (32 tokens) of the KV cache of a whole model with this configuration.
int64_t KvBytesPerBlock(const model::ModelConfig& config, kernels::DType kv_dtype);
// Blocks that options.kv_cache_bytes hold. At most as can be numbered. InvalidArgument, naming
// the option: not one.
absl::StatusOr<int32_t> BlocksOf(const model::ModelConfig& config, const ModelOptions& options);

// Makes a model for a kind of device: LoadModel is the CPU's.
using ModelLoader = absl::StatusOr<std::unique_ptr<CausalLm>> (*)(const model::GgufFile& file,
                                                                  const model::ModelConfig& config,
                                                                  const ModelOptions& options,
                                                                  WeightLoader& loader);

// Loads `file`'s weights as its architecture says. InvalidArgument names what is wrong with the
// file; Unimplemented names an architecture that is not supported, and those that are.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader);

// The same with a device's table.
struct Architecture {
  std::string_view name;
  ModelLoader load;
};
absl::StatusOr<std::unique_ptr<CausalLm>> LoadOneOf(absl::Span<const Architecture> architectures,
                                                    const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_REGISTRY_H_
