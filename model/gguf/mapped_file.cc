#include "model/gguf/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "model/gguf/gguf_error.h"

namespace paceline::model {
namespace {

// What the signal handler knows of the mappings there are; one more than these only dies without
// the explanation.
struct Mapping {
  std::atomic<bool> is_taken{false};
  std::atomic<uintptr_t> begin{0};  // 0: none
  std::atomic<uintptr_t> end{0};
  char path[512];
};
Mapping g_mappings[8];

void Write(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;  // nobody can be told
}

// Async-signal-safe.
void OnBusError(int signal, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : g_mappings) {
    if (address < mapping.begin.load() || address >= mapping.end.load()) continue;
    Write("paceline: ");
    Write(mapping.path);
    Write(
        ": the file was cut short or cannot be read any more; replace files by renaming, "
        "not by writing over them\n");
    _exit(1);
  }
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);  // the access is repeated, and ends the process
}

void InstallHandler() {
  [[maybe_unused]] static const bool installed = [] {
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
}

void Remember(std::string_view bytes, const std::string& path) {
  for (Mapping& mapping : g_mappings) {
    if (mapping.is_taken.exchange(true)) continue;
    std::strncpy(mapping.path, path.c_str(), sizeof(mapping.path) - 1);
    mapping.end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
    mapping.begin = reinterpret_cast<uintptr_t>(bytes.data());
    return;
  }
}

void Forget(std::string_view bytes) {
  for (Mapping& mapping : g_mappings) {
    if (mapping.begin.load() != reinterpret_cast<uintptr_t>(bytes.data())) continue;
    mapping.end = 0;
    mapping.begin = 0;
    mapping.is_taken = false;
    return;
  }
}

absl::Status OpenError(const std::string& path, int error) {
  return absl::ErrnoToStatus(error, GgufErrorText("cannot open ", path));
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: a FIFO must not make the open wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return OpenError(path, errno);
  struct stat info {};
  absl::StatusOr<MappedFile> result;
  if (fstat(fd, &info) != 0) {
    result = OpenError(path, errno);
  } else if (!S_ISREG(info.st_mode)) {
    result = GgufError(path, " is not a regular file");
  } else if (info.st_size == 0) {
    result = GgufError("the file is empty");
  } else {
    const size_t size = static_cast<size_t>(info.st_size);
    void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      result = OpenError(path, errno);
    } else {
      result = MappedFile(std::string_view(static_cast<const char*>(address), size));
      InstallHandler();
      Remember(result->bytes(), path);
    }
  }
  close(fd);
  return result;
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  Forget(bytes_);
  munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

}  // namespace paceline::model
