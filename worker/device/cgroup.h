// This process's control group, version 2 or 1: where its limits are and what they say. Stateless;
// any thread.
#ifndef PACELINE_WORKER_DEVICE_CGROUP_H_
#define PACELINE_WORKER_DEVICE_CGROUP_H_

#include <cstdint>
#include <optional>
#include <string>

namespace paceline::worker {

struct CgroupMemory {
  int64_t limit_bytes = 0;
  int64_t used_bytes = 0;  // without the page cache that the kernel can drop
};

// The tightest memory limit of the process's group and its parents; nullopt: none.
std::optional<CgroupMemory> ReadCgroupMemory(const std::string& root);

// The tightest CPU quota in processors; nullopt: none.
std::optional<double> ReadCgroupCpus(const std::string& root);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_CGROUP_H_
