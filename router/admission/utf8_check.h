// Whether bytes are well-formed UTF-8 (no overlong forms, surrogates or values above U+10FFFF).
// Stateless; any thread.
#ifndef PACELINE_ROUTER_ADMISSION_UTF8_CHECK_H_
#define PACELINE_ROUTER_ADMISSION_UTF8_CHECK_H_

#include <string_view>

namespace paceline::router {

bool IsValidUtf8(std::string_view text);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_ADMISSION_UTF8_CHECK_H_
