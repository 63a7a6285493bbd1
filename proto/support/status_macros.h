// The return pair for absl::Status and absl::StatusOr. Stateless; any thread.
#ifndef PACELINE_PROTO_SUPPORT_STATUS_MACROS_H_
#define PACELINE_PROTO_SUPPORT_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Evaluates `expr` (an absl::Status) and returns it from the enclosing function unless it is OK.
#define RETURN_IF_ERROR(expr)                                           \
  do {                                                                  \
    if (absl::Status paceline_status = (expr); !paceline_status.ok()) { \
      return paceline_status;                                           \
    }                                                                   \
  } while (0)

#define PACELINE_CONCAT_INNER(a, b) a##b
#define PACELINE_CONCAT(a, b) PACELINE_CONCAT_INNER(a, b)

// Evaluates `expr` (an absl::StatusOr<T>); returns its status, or moves its value into `lhs`, which
// may be a declaration: ASSIGN_OR_RETURN(auto file, GgufFile::Open(path));
#define ASSIGN_OR_RETURN(lhs, expr) \
  PACELINE_ASSIGN_OR_RETURN_INNER(PACELINE_CONCAT(paceline_statusor_, __LINE__), lhs, expr)
#define PACELINE_ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                                    \
  if (!tmp.ok()) return std::move(tmp).status();        \
  lhs = std::move(tmp).value()

#endif  // PACELINE_PROTO_SUPPORT_STATUS_MACROS_H_
