#include "worker/models/partition.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace paceline::worker {
namespace {

struct Heads {
  int64_t first = 0;
  int64_t count = 0;
  int64_t first_kv = 0;
  int64_t kv_count = 0;
};

// Whole KV heads with their query heads; with more ranks than KV heads, the query heads of one KV
// head, which each of those ranks then computes.
Heads HeadsOf(const model::ModelConfig& config, int32_t rank, int32_t num_ranks) {
  const int64_t kv_heads = config.num_kv_heads;
  const int64_t group = config.num_heads / kv_heads;
  if (num_ranks <= kv_heads) {
    const kernels::WorkRange kv = kernels::SplitWork(kv_heads, rank, num_ranks);
    return {kv.begin * group, (kv.end - kv.begin) * group, kv.begin, kv.end - kv.begin};
  }
  int64_t kv = 0;
  while (kernels::SplitWork(num_ranks, kv, kv_heads).end <= rank) ++kv;
  const kernels::WorkRange sharers = kernels::SplitWork(num_ranks, kv, kv_heads);
  const kernels::WorkRange part =
      kernels::SplitWork(group, rank - sharers.begin, sharers.end - sharers.begin);
  return {kv * group + part.begin, part.end - part.begin, kv, 1};
}

// Stages that take about equally long: the last one has the head besides its layers. What the head
// costs is told by its parameters, of which one takes 0.8 of the time of one in a layer (measured
// on 8 and 32 rows of SmolLM2-135M). Every stage has a layer. REQUIRES: as many layers as stages.
kernels::WorkRange LayersOf(const model::ModelConfig& config, int32_t stage, int32_t num_stages) {
  const double hidden = config.hidden_size;
  const double attention =
      2.0 * config.head_dim * (config.num_heads + config.num_kv_heads) * hidden;
  const double layer = attention + 3.0 * hidden * config.intermediate_size;
  const double all = config.num_layers + 0.8 * hidden * config.vocab_size / layer;
  const auto end_of = [&](int32_t s) {
    const auto even = static_cast<int32_t>(all * (s + 1) / num_stages);
    const int32_t most = config.num_layers - (num_stages - 1 - s);
    return s + 1 == num_stages ? config.num_layers : std::clamp(even, s + 1, most);
  };
  return {stage == 0 ? 0 : end_of(stage - 1), end_of(stage)};
}

}  // namespace

absl::StatusOr<Partition> PartitionModel(const model::ModelConfig& config, const RankPlace& place) {
  if (place.num_stages > config.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("--pipeline-parallel-size: ",
                                                   place.num_stages,
                                                   " stages, but the model has ",
                                                   config.num_layers,
                                                   " layers"));
  }
  Partition partition;
  partition.layers = LayersOf(config, place.stage, place.num_stages);
  std::vector<int64_t> query_ends;
  bool all_have_heads = true;
  for (int32_t rank = 0; rank < place.tensor_size; ++rank) {
    const Heads heads = HeadsOf(config, rank, place.tensor_size);
    query_ends.push_back((heads.first + heads.count) * config.head_dim);
    all_have_heads = all_have_heads && heads.count > 0;
  }
  const Heads own = HeadsOf(config, place.tensor_rank, place.tensor_size);
  const auto share = [&](int64_t total, int64_t unit) {
    return Shares::Even(total, unit, place.tensor_size, place.tensor_rank);
  };
  partition.hidden = share(config.hidden_size, kernels::kPackRows);
  partition.inner = share(config.intermediate_size, kernels::kBlockK);
  partition.vocabulary = share(config.vocab_size, kernels::kPackRows);
  partition.attention = {.first_head = static_cast<int32_t>(own.first),
                         .num_heads = static_cast<int32_t>(own.count),
                         .first_kv_head = static_cast<int32_t>(own.first_kv),
                         .num_kv_heads = static_cast<int32_t>(own.kv_count),
                         .head_dim = config.head_dim,
                         .query = Shares(std::move(query_ends), place.tensor_rank),
                         .hidden = partition.hidden};
  if (!all_have_heads || !partition.hidden.AllNonempty() || !partition.inner.AllNonempty() ||
      !partition.vocabulary.AllNonempty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor-parallel-size: ",
                     place.tensor_size,
                     " ranks are more than this model can be shared among (",
                     config.num_heads,
                     " heads, ",
                     config.hidden_size,
                     " hidden, ",
                     config.intermediate_size,
                     " intermediate)"));
  }
  return partition;
}

}  // namespace paceline::worker
