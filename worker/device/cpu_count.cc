#include "worker/device/cpu_count.h"

#include <sched.h>

#include <algorithm>
#include <optional>
#include <set>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "worker/device/cgroup.h"

namespace paceline::worker {
namespace {

std::vector<int32_t> Affinity() {
  std::vector<int32_t> cpus;
  // The kernel may know more CPUs than a cpu_set_t holds.
  for (int max_cpus = CPU_SETSIZE; max_cpus <= (1 << 20); max_cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(max_cpus);
    const size_t bytes = CPU_ALLOC_SIZE(max_cpus);
    CPU_ZERO_S(bytes, set);
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    for (int cpu = 0; known && cpu < max_cpus; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (known) return cpus;
  }
  for (int32_t cpu = 0; cpu < static_cast<int32_t>(std::thread::hardware_concurrency()); ++cpu) {
    cpus.push_back(cpu);
  }
  return cpus;
}

// CPUs that hardware threads share a core with are written the same in each one's file.
int32_t CountCores(const std::string& root, const std::vector<int32_t>& cpus) {
  std::set<std::string> cores;
  for (int32_t cpu : cpus) {
    const std::optional<std::string> siblings = ReadSmallFile(
        absl::StrCat(root, "/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings ? *siblings : absl::StrCat("cpu", cpu));
  }
  return static_cast<int32_t>(cores.size());
}

// CPUs that quota and period (both microseconds) amount to; nullopt: no limit.
std::optional<double> Cpus(std::optional<int64_t> quota, std::optional<int64_t> period) {
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

// cpu.max is "QUOTA PERIOD" or "max PERIOD".
std::optional<double> QuotaV2(const std::string& folder) {
  const std::string text = ReadSmallFile(absl::StrCat(folder, "/cpu.max")).value_or("");
  const std::vector<std::string> words = absl::StrSplit(text, absl::ByAnyChar(" \n"));
  int64_t quota = 0;
  int64_t period = 0;
  if (words.size() < 2 || !absl::SimpleAtoi(words[0], &quota) ||
      !absl::SimpleAtoi(words[1], &period)) {
    return std::nullopt;
  }
  return Cpus(quota, period);
}

std::optional<double> QuotaV1(const std::string& folder) {
  return Cpus(ReadInteger(absl::StrCat(folder, "/cpu.cfs_quota_us")),
              ReadInteger(absl::StrCat(folder, "/cpu.cfs_period_us")));
}

}  // namespace

int32_t UsableCpusUnder(const std::string& root, const std::vector<int32_t>& affinity) {
  double cpus = CountCores(root, affinity);
  const CgroupFolders groups = FindCgroups(root, "cpu");
  for (const std::string& folder : groups.v2) cpus = std::min(cpus, QuotaV2(folder).value_or(cpus));
  for (const std::string& folder : groups.v1) cpus = std::min(cpus, QuotaV1(folder).value_or(cpus));
  return std::max(1, static_cast<int32_t>(cpus));
}

int32_t UsableCpus() { return UsableCpusUnder("/", Affinity()); }

int32_t ThreadsPerReplica(int32_t usable_cpus, int32_t num_replicas) {
  return std::max(1, usable_cpus / num_replicas);
}

}  // namespace paceline::worker
