// A file mapped read-only for as long as the object lives. Move-only; any thread may read it.
#ifndef PACELINE_MODEL_GGUF_MAPPED_FILE_H_
#define PACELINE_MODEL_GGUF_MAPPED_FILE_H_

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace paceline::model {

class MappedFile {
 public:
  // NotFound, PermissionDenied: the file cannot be opened. InvalidArgument: it is empty or no
  // regular file.
  //
  // A page that can no longer be read (the file was cut, its disk or network fails) ends the
  // process with status 1 and a line on standard error that names the file: the first Open installs
  // a handler of SIGBUS, which leaves other addresses to the default action.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  std::string_view bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::string_view bytes) : bytes_(bytes) {}

  std::string_view bytes_;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_MAPPED_FILE_H_
