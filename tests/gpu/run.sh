#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and the CUDA toolkit: builds the kernels, runs their tests
# natively and under compute-sanitizer where it is installed, and measures them.
#   tests/gpu/run.sh [RESULTS.json]
# Exit status 0: all tests passed. About five minutes with 16 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=${1:-gpu_results.json}
build=build/release

[ -f $build/build.ninja ] || cmake --preset release -DPACELINE_CUDA=ON >/dev/null
cmake --build $build --target gpu_tests

export CUDA_LAUNCH_BLOCKING=1
for test in "$build"/tests/gpu/gpu_*_test; do
  echo "== ${test##*/}"
  "$test" --gtest_brief=1
done
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    for test in rows embed kv_blocks rope_write_kv paged_decode; do
      echo "== $tool: $test"
      timeout 120 compute-sanitizer --tool $tool --error-exitcode 1 \
        "$build/tests/gpu/gpu_${test}_test" --gtest_brief=1
    done
  done
fi
unset CUDA_LAUNCH_BLOCKING

"$build/tests/gpu/gpu_kernels_bench" | tee "$results"
echo "Results: $results"
