// Float32 to the tensor types' bytes, for files made in tests: plain round-to-nearest, as
// llama.cpp's reference quantizers do it. Stateless; any thread.
#ifndef PACELINE_TESTS_FAKES_QUANTIZE_H_
#define PACELINE_TESTS_FAKES_QUANTIZE_H_

#include <string>

#include "absl/types/span.h"
#include "model/gguf/tensor_type.h"

namespace paceline::model {

// REQUIRES: values.size() is a multiple of the type's block size.
std::string Quantize(TensorType type, absl::Span<const float> values);

}  // namespace paceline::model

#endif  // PACELINE_TESTS_FAKES_QUANTIZE_H_
