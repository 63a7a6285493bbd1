// Where the limits of this process's control groups are found. Private to worker/device. Stateless;
// any thread.
#ifndef PACELINE_WORKER_DEVICE_CGROUP_H_
#define PACELINE_WORKER_DEVICE_CGROUP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace paceline::worker {

struct CgroupFolders {
  // This process's group and its parents, innermost first; only folders that exist.
  std::vector<std::string> v1;
  std::vector<std::string> v2;
};

// Groups that `controller` ("memory", "cpu") puts limits on. Inside a container the path that the
// kernel names may not exist; then the mount's root is the container's own group.
CgroupFolders FindCgroups(const std::string& root, std::string_view controller);

// The whole file; nullopt when it cannot be read.
std::optional<std::string> ReadSmallFile(const std::string& path);
// The integer that the file starts with; nullopt for anything else ("max").
std::optional<int64_t> ReadInteger(const std::string& path);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_CGROUP_H_
