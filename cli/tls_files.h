// --tls-cert-file and its kin: the files behind a TlsSource. Main thread.
#ifndef PACELINE_CLI_TLS_FILES_H_
#define PACELINE_CLI_TLS_FILES_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/file_watch.h"
#include "cli/options.h"
#include "proto/support/tls.h"

namespace paceline::cli {

// `prefix`: "tls" or "worker-tls", for messages. InvalidArgument names the option and what is
// wrong.
absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsOptions& options, const std::string& prefix);

// Follows the files from now on. Null when `options` name none.
absl::StatusOr<std::unique_ptr<TlsSource>> FollowTlsFiles(const TlsOptions& options,
                                                          const std::string& prefix,
                                                          FileWatch& files);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_TLS_FILES_H_
