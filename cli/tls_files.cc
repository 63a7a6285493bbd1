#include "cli/tls_files.h"

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "cli/read_file.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

// The contents of the file that `option` names; empty without one.
absl::StatusOr<std::string> ReadOption(const std::string& option, const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", text.status().message()));
  }
  if (text->empty())
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", path, " is empty"));
  return text;
}

void WarnIfExpired(const TlsMaterial& material, const std::string& option) {
  if (material.expires_s == 0 || material.expires_s > std::time(nullptr)) return;
  spdlog::warn("{}: the certificate has expired at {}: clients will refuse it",
               option,
               absl::FormatTime(absl::FromUnixSeconds(material.expires_s), absl::UTCTimeZone()));
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsOptions& options, const std::string& prefix) {
  const std::string option = absl::StrCat("--", prefix);
  if (options.cert_file.empty() != options.key_file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(option,
                                                   options.cert_file.empty() ? "-key" : "-cert",
                                                   "-file: needs ",
                                                   option,
                                                   options.cert_file.empty() ? "-cert" : "-key",
                                                   "-file"));
  }
  ASSIGN_OR_RETURN(std::string certificates, ReadOption(option + "-cert-file", options.cert_file));
  ASSIGN_OR_RETURN(std::string key, ReadOption(option + "-key-file", options.key_file));
  ASSIGN_OR_RETURN(std::string authorities, ReadOption(option + "-ca-file", options.ca_file));
  const bool has_identity = !certificates.empty();
  // Apart, so that the message names the file at fault.
  if (!authorities.empty()) {
    if (const auto trusted = MakeTlsMaterial("", "", authorities); !trusted.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(option, "-ca-file: ", options.ca_file, ": ", trusted.status().message()));
    }
  }
  auto material = MakeTlsMaterial(std::move(certificates), std::move(key), std::move(authorities));
  if (material.ok() || !has_identity) return material;
  return absl::InvalidArgumentError(absl::StrCat(option,
                                                 "-cert-file ",
                                                 options.cert_file,
                                                 ", ",
                                                 option,
                                                 "-key-file ",
                                                 options.key_file,
                                                 ": ",
                                                 material.status().message()));
}

absl::StatusOr<std::unique_ptr<TlsSource>> FollowTlsFiles(const TlsOptions& options,
                                                          const std::string& prefix,
                                                          FileWatch& files) {
  auto source = std::make_unique<TlsSource>(TlsMaterial());
  const auto read = [options, prefix, &files, source = source.get()]() -> absl::Status {
    ASSIGN_OR_RETURN(TlsMaterial material, ReadTlsFiles(options, prefix));
    WarnIfExpired(material, absl::StrCat("--", prefix, "-cert-file"));
    files.SetExpiry(prefix, material.expires_s);
    source->Set(std::move(material));
    return absl::OkStatus();
  };
  if (options.cert_file.empty() && options.key_file.empty() && options.ca_file.empty()) {
    return nullptr;
  }
  RETURN_IF_ERROR(files.Add(prefix, {options.cert_file, options.key_file, options.ca_file}, read));
  return source;
}

}  // namespace paceline::cli
