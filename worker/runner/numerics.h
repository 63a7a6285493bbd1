// A name for everything that decides the bits of an answer beside the request. Stateless; any
// thread.
#ifndef PACELINE_WORKER_RUNNER_NUMERICS_H_
#define PACELINE_WORKER_RUNNER_NUMERICS_H_

#include <string>
#include <string_view>

#include "kernels/gemm/activations.h"
#include "kernels/tensor_view.h"

namespace paceline::worker {

// `num_summing_ranks`: tensor ranks whose partial results are added up (TensorMode::kFast), 1 where
// the number of ranks does not show. `device`: what computes in the place of the CPU's matmul and
// attention, with the type of its activations ("cuda-sm_90-bf16") and "-wgmma" where prefill uses
// that; empty: nothing. The CPU samples.
//
// Replicas with equal texts continue each other's answers bit for bit: same model file, same
// release, same types of activations and KV cache, kernels of the same bits (as active now), and a
// C library whose exp and log are the same. It cannot tell two builds of one release apart.
std::string Numerics(std::string_view model_digest,
                     std::string_view release,
                     kernels::ComputeType compute,
                     kernels::DType kv_dtype,
                     int32_t num_summing_ranks = 1,
                     std::string_view device = {});

// "f16", "bf16", "int8" or "f32".
std::string_view KvDtypeName(kernels::DType kv_dtype);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_NUMERICS_H_
