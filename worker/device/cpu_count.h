// How many cores this process may use, and a replica's share of them. Reads the machine's files
// each time; any thread.
#ifndef PACELINE_WORKER_DEVICE_CPU_COUNT_H_
#define PACELINE_WORKER_DEVICE_CPU_COUNT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace paceline::worker {

// Cores this process may run on: the physical cores of its affinity mask (hardware threads of one
// core count once: they share its multipliers), and not more than the whole CPUs of its cgroup
// quota (v1 and v2, parents included). At least 1.
int32_t UsableCpus();

// The same of the machine whose files are under `root` ("/" is this one), for a process that may
// run on the logical CPUs `affinity`.
int32_t UsableCpusUnder(const std::string& root, const std::vector<int32_t>& affinity);

// The default of --threads for one of `num_replicas` on this machine: an equal share, rounded down,
// at least 1. REQUIRES: num_replicas >= 1.
int32_t ThreadsPerReplica(int32_t usable_cpus, int32_t num_replicas);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_CPU_COUNT_H_
