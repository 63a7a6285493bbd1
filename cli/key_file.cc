#include "cli/key_file.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/read_file.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
KeyFile::KeyFile(std::string option, std::vector<std::string> specs, std::string path)
    : option_(std::move(option)), specs_(std::move(specs)), path_(std::move(path)) {}

absl::StatusOr<std::unique_ptr<KeyFile>> KeyFile::Open(std::string option,
                                                       std::vector<std::string> specs,
                                                       std::string path) {
  auto file =
      std::unique_ptr<KeyFile>(new KeyFile(std::move(option), std::move(specs), std::move(path)));
  ASSIGN_OR_RETURN(router::ApiKeys keys, file->Read(file->specs_));
  file->keys_ = std::make_shared<const router::ApiKeys>(std::move(keys));
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

absl::StatusOr<router::ApiKeys> KeyFile::Read(std::vector<std::string> specs) const {
  const std::string option = path_.empty() ? option_ : absl::StrCat(option_, "-file");
  const auto fail = [&option](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", what));
  };
  if (!path_.empty()) {
    absl::StatusOr<std::vector<std::string>> lines = ReadLines(path_);
    if (!lines.ok()) return fail(lines.status().message());
    if (lines->empty()) return fail(absl::StrCat(path_, " holds no key"));
    specs.insert(specs.end(), lines->begin(), lines->end());
  }
  absl::StatusOr<router::ApiKeys> keys = router::ApiKeys::Parse(specs);
  if (!keys.ok()) return fail(keys.status().message());
  return keys;
}

absl::StatusOr<router::ApiKeys> KeyFile::ReadAgain(const std::vector<std::string>& specs) const {
  ASSIGN_OR_RETURN(router::ApiKeys keys, Read(specs));
  if (keys.required() == required()) return keys;
  return absl::InvalidArgumentError(
      absl::StrCat(option_, ": whether keys are needed cannot change without a restart"));
}

absl::Status KeyFile::Check(const std::vector<std::string>& specs) const {
  return ReadAgain(specs).status();
}

absl::Status KeyFile::Refresh(std::vector<std::string> specs) {
  ASSIGN_OR_RETURN(router::ApiKeys keys, ReadAgain(specs));
  specs_ = std::move(specs);
  const std::lock_guard lock(mutex_);
  keys_ = std::make_shared<const router::ApiKeys>(std::move(keys));
  return absl::OkStatus();
}

}  // namespace paceline::cli
