#include "cli/key_file.h"

#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"

namespace paceline::cli {
namespace {

constexpr std::chrono::seconds kInterval(2);
constexpr int64_t kMaxBytes = 1 << 20;

}  // namespace

KeyFile::KeyFile(std::string option, std::vector<std::string> specs, std::string path)
    : option_(std::move(option)), specs_(std::move(specs)), path_(std::move(path)) {}

KeyFile::~KeyFile() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  stop_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

absl::StatusOr<std::unique_ptr<KeyFile>> KeyFile::Open(std::string option,
                                                       std::vector<std::string> specs,
                                                       std::string path) {
  auto file =
      std::unique_ptr<KeyFile>(new KeyFile(std::move(option), std::move(specs), std::move(path)));
  file->version_ = file->Version();
  absl::StatusOr<router::ApiKeys> keys = file->Read();
  if (!keys.ok()) return keys.status();
  file->keys_ = std::make_shared<const router::ApiKeys>(*std::move(keys));
  if (!file->path_.empty()) file->watcher_ = std::thread([raw = file.get()] { raw->Watch(); });
  return file;
}

bool KeyFile::required() const {
  const std::lock_guard lock(mutex_);
  return keys_->required();
}

std::optional<std::string> KeyFile::Authenticate(std::string_view bearer) const {
  std::shared_ptr<const router::ApiKeys> keys;
  {
    const std::lock_guard lock(mutex_);
    keys = keys_;
  }
  return keys->Authenticate(bearer);
}

absl::StatusOr<router::ApiKeys> KeyFile::Read() const {
  std::vector<std::string> specs = specs_;
  const std::string option = path_.empty() ? option_ : absl::StrCat(option_, "-file");
  if (!path_.empty()) {
    std::ifstream file(path_);
    if (!file) return absl::InvalidArgumentError(absl::StrCat(option, ": cannot read ", path_));
    const size_t before = specs.size();
    int64_t bytes = 0;
    for (std::string line; std::getline(file, line);) {
      bytes += static_cast<int64_t>(line.size()) + 1;
      if (bytes > kMaxBytes) {
        return absl::InvalidArgumentError(absl::StrCat(option, ": ", path_, " is too large"));
      }
      if (line.empty() || line.front() == '#') continue;
      specs.push_back(std::move(line));
    }
    if (specs.size() == before) {
      return absl::InvalidArgumentError(absl::StrCat(option, ": ", path_, " holds no key"));
    }
  }
  absl::StatusOr<router::ApiKeys> keys = router::ApiKeys::Parse(specs);
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(absl::StrCat(option, ": ", keys.status().message()));
}

std::string KeyFile::Version() const {
  struct stat info {};
  if (path_.empty() || stat(path_.c_str(), &info) != 0) return "";
  return absl::StrCat(info.st_dev,
                      ":",
                      info.st_ino,
                      ":",
                      info.st_size,
                      ":",
                      info.st_mtim.tv_sec,
                      ":",
                      info.st_mtim.tv_nsec);
}

void KeyFile::Refresh() {
  std::string version = Version();
  if (version == version_) return;
  version_ = std::move(version);
  absl::StatusOr<router::ApiKeys> keys = Read();
  if (!keys.ok()) {
    spdlog::error("{}; the keys stay as they were", std::string(keys.status().message()));
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    keys_ = std::make_shared<const router::ApiKeys>(*std::move(keys));
  }
  spdlog::info("{}-file: read again", option_);
}

void KeyFile::Watch() {
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, kInterval, [this] { return is_stopping_; })) {
    lock.unlock();
    Refresh();
    lock.lock();
  }
}

}  // namespace paceline::cli
