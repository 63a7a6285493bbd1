// How the GGUF reader and the model configuration word their errors: "gguf: tensor 'x': …".
// Stateless; any thread.
#ifndef PACELINE_MODEL_GGUF_GGUF_ERROR_H_
#define PACELINE_MODEL_GGUF_GGUF_ERROR_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace paceline::model {

// Debian's Abseil has a string_view of its own, which absl::StrCat wants.
template <typename T>
decltype(auto) GgufErrorPiece(const T& value) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return absl::string_view(value.data(), value.size());
  } else {
    return (value);
  }
}

template <typename... Args>
std::string GgufErrorText(const Args&... args) {
  return absl::StrCat("gguf: ", GgufErrorPiece(args)...);
}

// The file is malformed, or says something impossible.
template <typename... Args>
absl::Status GgufError(const Args&... args) {
  return absl::InvalidArgumentError(GgufErrorText(args...));
}

// The file is sound, but needs something that is not supported.
template <typename... Args>
absl::Status GgufUnsupported(const Args&... args) {
  return absl::UnimplementedError(GgufErrorText(args...));
}

// `name` quoted for an error text: control bytes escaped, long names cut.
std::string QuoteGgufName(std::string_view name);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_GGUF_ERROR_H_
