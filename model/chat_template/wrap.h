// Line wrapping as Python's textwrap does it. Stateless; any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_WRAP_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_WRAP_H_

#include <cstddef>
#include <vector>

#include "model/chat_template/text.h"

namespace paceline::model {

// The byte ranges of the lines, at most `width` code points wide, that `line` of `text` breaks
// into; none for a blank line.
std::vector<TextSpan> WrapLine(
    const Text& text, TextSpan line, size_t width, bool break_long_words, bool break_on_hyphens);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_WRAP_H_
