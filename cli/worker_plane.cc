#include "cli/worker_plane.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/read_file.h"
#include "cli/tls_files.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {

absl::StatusOr<std::vector<std::string>> ReadTokens(const std::string& path) {
  if (path.empty()) return std::vector<std::string>();
  absl::StatusOr<std::vector<std::string>> lines = ReadLines(path);
  if (!lines.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--worker-token-file: ", lines.status().message()));
  }
  if (lines->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--worker-token-file: ", path, " holds no token"));
  }
  for (std::string& line : *lines) absl::StripAsciiWhitespace(&line);
  return lines;
}

absl::StatusOr<std::unique_ptr<WorkerPlane>> WorkerPlane::Open(const WorkerPlaneOptions& options,
                                                               FileWatch& files) {
  auto plane = std::unique_ptr<WorkerPlane>(new WorkerPlane(options));
  ASSIGN_OR_RETURN(plane->tls_, FollowTlsFiles(options.tls, "worker-tls", files));
  ASSIGN_OR_RETURN(plane->tokens_, KeyFile::Open("--worker-token", {}, options.token_file));
  RETURN_IF_ERROR(files.Add(
      "worker-token", {options.token_file}, [raw = plane.get()] { return raw->Refresh(); }));
  return plane;
}

absl::Status WorkerPlane::Refresh() {
  ASSIGN_OR_RETURN(const std::vector<std::string> tokens, ReadTokens(options_.token_file));
  RETURN_IF_ERROR(tokens_->Refresh());
  const std::lock_guard lock(mutex_);
  first_token_ = tokens.front();
  return absl::OkStatus();
}

std::string WorkerPlane::FirstToken() const {
  const std::lock_guard lock(mutex_);
  return first_token_;
}

absl::StatusOr<router::GrpcLinkOptions> WorkerPlane::LinkOptions() const {
  if (options_.tls.ca_file.empty() && tls_ != nullptr) {
    return absl::InvalidArgumentError("--worker-tls-cert-file: needs --worker-tls-ca-file");
  }
  if (!options_.server_name.empty() && tls_ == nullptr) {
    return absl::InvalidArgumentError("--worker-tls-server-name: needs --worker-tls-ca-file");
  }
  router::GrpcLinkOptions links{.tls = tls_.get(), .server_name = options_.server_name};
  if (tokens_->required()) links.token = [this] { return FirstToken(); };
  return links;
}

absl::Status WorkerPlane::CheckServes(bool operator_tls) const {
  if (!options_.tls.cert_file.empty()) return absl::OkStatus();
  if (tls_ != nullptr) {
    return absl::InvalidArgumentError("--worker-tls-ca-file: needs --worker-tls-cert-file");
  }
  if (operator_tls)
    return absl::InvalidArgumentError("--operator-tls: needs --worker-tls-cert-file");
  return absl::OkStatus();
}

std::function<bool(std::string_view)> WorkerPlane::Admits() const {
  if (!tokens_->required()) return nullptr;
  return [tokens = tokens_.get()](std::string_view token) {
    return tokens->Authenticate(token).has_value();
  };
}

}  // namespace paceline::cli
