#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and the CUDA toolkit: builds the kernels and the models made of
# them, runs their tests natively, some under compute-sanitizer where it is installed, and measures.
#   tests/gpu/run.sh [RESULTS.json [MODEL.gguf]]
# MODEL.gguf (models/*.gguf) is run end to end and measured too, into RESULTS_model.json.
# Exit status 0: all tests passed. About five minutes with 16 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=${1:-gpu_results.json}
model=${2:-$(find models -name '*.gguf' 2>/dev/null | head -n 1)}
build=build/release

[ -f $build/build.ninja ] || cmake --preset release -DPACELINE_CUDA=ON >/dev/null
cmake --build $build --target gpu_tests paceline

for test in "$build"/tests/gpu/gpu_device_*_test; do
  echo "== ${test##*/}"
  "$test" --gtest_brief=1
done
export CUDA_LAUNCH_BLOCKING=1
for test in "$build"/tests/gpu/gpu_*_test; do
  [[ $test == */gpu_device_* ]] && continue
  echo "== ${test##*/}"
  "$test" --gtest_brief=1
done
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    for test in element rows embed kv_blocks rope_write_kv paged_decode; do
      echo "== $tool: $test"
      timeout 120 compute-sanitizer --tool $tool --error-exitcode 1 \
        "$build/tests/gpu/gpu_${test}_test" --gtest_brief=1
    done
  done
fi
unset CUDA_LAUNCH_BLOCKING

"$build/tests/gpu/gpu_kernels_bench" | tee "$results"

# A model end to end, and its speed alone and with 64 sequences.
if [ -n "$model" ]; then
  echo "== $model"
  "$build/paceline" generate "$model" --device cuda -p "The capital of France is" --max-tokens 16
  "$build/paceline" bench "$model" --device cuda --batch 1,64 --json | tee "${results%.json}_model.json"
fi
echo "Results: $results"
