// Counts what `operator new` hands out in this test binary, so that a test can bound it.
// One count for the process; reset and read it in one thread.
#ifndef PACELINE_TESTS_MODEL_GGUF_COUNTING_NEW_H_
#define PACELINE_TESTS_MODEL_GGUF_COUNTING_NEW_H_

#include <cstddef>

namespace paceline::model {

// Starts again from zero.
void ResetAllocatedBytes();
// The sum of all sizes asked for since then; what was freed meanwhile is not taken off.
size_t AllocatedBytes();

}  // namespace paceline::model

#endif  // PACELINE_TESTS_MODEL_GGUF_COUNTING_NEW_H_
