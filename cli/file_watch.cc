#include "cli/file_watch.h"

#include <sys/stat.h>

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"
#include "proto/support/log.h"

namespace paceline::cli {
namespace {

// Changes when one of the files does.
std::string VersionOf(const std::vector<std::string>& paths) {
  std::string version;
  for (const std::string& path : paths) {
    struct stat info {};
    if (stat(path.c_str(), &info) != 0) {
      absl::StrAppend(&version, "none ");
      continue;
    }
    absl::StrAppend(&version, info.st_dev, ":", info.st_ino, ":", info.st_size, ":");
    absl::StrAppend(&version, info.st_mtim.tv_sec, ":", info.st_mtim.tv_nsec, " ");
  }
  return version;
}

prometheus::Family<prometheus::Gauge>& NewGauge(prometheus::Registry& registry,
                                                const std::string& name,
                                                const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

}  // namespace

FileWatch::FileWatch(const std::string& metric_prefix)
    : reads_(prometheus::BuildCounter()
                 .Name(metric_prefix + "_file_reads_total")
                 .Help("Times that a file was read, by result")
                 .Register(registry_)),
      is_current_(NewGauge(registry_,
                           metric_prefix + "_file_is_current",
                           "0 while a file, or some of it, is not in force")),
      read_time_(NewGauge(registry_,
                          metric_prefix + "_file_read_timestamp_seconds",
                          "When a file was last read with success")),
      expiry_(NewGauge(registry_,
                       metric_prefix + "_certificate_expiry_timestamp_seconds",
                       "When a certificate in use ends")) {}

absl::Status FileWatch::Add(std::string name, std::vector<std::string> paths, Read read) {
  std::erase_if(paths, [](const std::string& path) { return path.empty(); });
  if (paths.empty()) return absl::OkStatus();
  groups_.push_back({.name = std::move(name), .paths = std::move(paths), .read = std::move(read)});
  return ReadGroup(groups_.back());
}

// The version first: what changes while it is read is read once more.
absl::Status FileWatch::ReadGroup(Group& group) {
  group.version = VersionOf(group.paths);
  absl::Status status = group.read();
  const prometheus::Labels labels = {{"file", group.name}};
  reads_.Add({{"file", group.name}, {"result", status.ok() ? "ok" : "error"}}).Increment();
  is_current_.Add(labels).Set(status.ok() ? 1 : 0);
  if (status.ok()) read_time_.Add(labels).Set(static_cast<double>(std::time(nullptr)));
  return status;
}

void FileWatch::Poll() {
  for (Group& group : groups_) {
    if (VersionOf(group.paths) == group.version) continue;
    if (const absl::Status status = ReadGroup(group); status.ok()) {
      spdlog::info("{}: changed, read again", group.name);
    } else if (absl::IsFailedPrecondition(status)) {
      spdlog::warn("{}; the rest is in force", std::string(status.message()));
    } else {
      spdlog::error("{}; what was there before goes on", std::string(status.message()));
    }
  }
}

void FileWatch::ReadAll() {
  for (Group& group : groups_) group.version.clear();
  Poll();
}

void FileWatch::SetExpiry(const std::string& name, int64_t unix_s) {
  if (unix_s > 0) expiry_.Add({{"file", name}}).Set(static_cast<double>(unix_s));
}

std::string FileWatch::MetricsText() const {
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace paceline::cli
