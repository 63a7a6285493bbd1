// HTML escaping as the escape filter does it. Stateless; any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_HTML_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_HTML_H_

#include "model/chat_template/text.h"

namespace paceline::model {

// Appends `text` with & < > " ' as entities.
void AppendHtmlEscaped(const Text& text, TextBuilder* out);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_HTML_H_
