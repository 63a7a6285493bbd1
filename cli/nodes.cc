#include "cli/nodes.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

constexpr char kSize[] = "LWS_GROUP_SIZE";
constexpr char kIndex[] = "LWS_WORKER_INDEX";
constexpr char kLeader[] = "LWS_LEADER_ADDRESS";

template <typename... Text>
absl::Status Wrong(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat(text...));
}

absl::Status ReadNumber(const char* name, const char* text, int32_t least, int32_t& value) {
  if (absl::SimpleAtoi(text, &value) && value >= least) return absl::OkStatus();
  return Wrong(name, ": not a number from ", least, ": '", text, "'");
}

}  // namespace

absl::Status SettleNodes(const std::function<const char*(const char* name)>& environment,
                         WorkerOptions& options) {
  NodeOptions& nodes = options.nodes;
  const int32_t ranks = options.engine.tensor_parallel_size * options.engine.pipeline_parallel_size;
  if (const char* size = environment(kSize); nodes.count == 0 && size != nullptr) {
    RETURN_IF_ERROR(ReadNumber(kSize, size, 1, nodes.count));
  }
  if (nodes.count <= 1) {
    nodes.count = 1;
    if (nodes.rank > 0)
      return Wrong("--node-rank: ", nodes.rank, ", but there is one node; give --nnodes");
    if (!nodes.master_addr.empty()) {
      return Wrong("--master-addr: of use with several nodes only; give --nnodes");
    }
    nodes.rank = 0;
    return absl::OkStatus();
  }
  if (const char* index = environment(kIndex); nodes.rank < 0 && index != nullptr) {
    RETURN_IF_ERROR(ReadNumber(kIndex, index, 0, nodes.rank));
  }
  if (const char* leader = environment(kLeader); nodes.master_addr.empty() && leader != nullptr) {
    nodes.master_addr = leader;
  }
  if (nodes.rank < 0) {
    return Wrong(
        "--node-rank: missing; give each of the ", nodes.count, " nodes its number, from 0");
  }
  if (nodes.rank >= nodes.count) {
    return Wrong("--node-rank: ",
                 nodes.rank,
                 ", but ",
                 nodes.count,
                 " nodes have numbers from 0 to ",
                 nodes.count - 1);
  }
  if (nodes.master_addr.empty()) {
    return Wrong("--master-addr: missing; give the address of node 0, the same on every node");
  }
  if (nodes.master_port < 1)
    return Wrong("--master-port: must be the same on every node, so not 0");
  if (ranks % nodes.count != 0) {
    return Wrong(
        "--nnodes: ",
        nodes.count,
        " nodes cannot share ",
        ranks,
        ranks == 1 ? " rank" : " ranks",
        " evenly; give --tensor-parallel-size and --pipeline-parallel-size whose product is "
        "a multiple of it");
  }
  return absl::OkStatus();
}

}  // namespace paceline::cli
