#include "worker/models/partition.h"

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
  partition.layers = kernels::SplitWork(config.num_layers, place.stage, place.num_stages);
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
