// A half-open byte range [begin, end) of some text. A plain value; any thread.
#ifndef PACELINE_MODEL_TEXT_SPAN_H_
#define PACELINE_MODEL_TEXT_SPAN_H_

#include <cstddef>

namespace paceline::model {

struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TEXT_SPAN_H_
