#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and the CUDA toolkit: builds the kernels and the models made of
# them, runs their tests natively, some under compute-sanitizer where it is installed, and measures.
#   tests/gpu/run.sh [RESULTS.json [MODEL.gguf]]
# Exchanges between ranks go to RESULTS_exchange.json: between all GPUs that there are, and over NCCL,
# or between two ranks on one GPU.
# MODEL.gguf (models/*.gguf) is run end to end and measured too, into RESULTS_model.json, on one rank
# and on two that share the GPU; then models of the shapes of Llama 3 8B with random weights, into
# RESULTS_8b_TYPE.json (21 GB of disk, 40 GB of the GPU's memory).
# Exit status 0: all tests passed. Meant for less than nine minutes with 16 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=${1:-gpu_results.json}
model=${2:-$(find models -name '*.gguf' 2>/dev/null | head -n 1)}
build=build/release

[ -f $build/build.ninja ] || cmake --preset release -DPACELINE_CUDA=ON >/dev/null
cmake --build $build --target gpu_tests paceline

# Kernels that are loaded when they are first started wait for those that run, and so for ever for
# those that wait for them.
for test in "$build"/tests/gpu/gpu_device_*_test; do
  echo "== ${test##*/}"
  CUDA_MODULE_LOADING=EAGER timeout 300 "$test" --gtest_brief=1
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

CUDA_MODULE_LOADING=EAGER timeout 300 "$build/tests/gpu/gpu_exchange_bench" | tee "${results%.json}_exchange.json"

answer() {
  "$build/paceline" generate "$model" --device cuda -p "The capital of France is" --max-tokens 64 "$@"
}
speed() {  # of MODEL, alone and with 64 sequences, into RESULTS_$2.json
  "$build/paceline" bench "$1" --device cuda --batch 1,64 --json | tee "${results%.json}_$2.json"
  # The host's share, and the GPU's idle time between steps.
  "$build/paceline" bench "$1" --device cuda --repetitions 1 --step-trace "$build/steps.json"
  python3 tests/bench/step_shares.py "$build/steps.json" | tee "${results%.json}_$2_steps.txt"
}

if [ -n "$model" ]; then
  echo "== $model"
  one=$(answer)
  echo "$one"
  speed "$model" model
  # Through the host's memory, and over NCCL where it is one (2.30) that takes two ranks of one GPU.
  for nccl in 0 1; do
    for ranks in -tp -pp; do
      echo "== $ranks 2, NCCL_MULTI_RANK_GPU_ENABLE=$nccl"
      two=$(NCCL_MULTI_RANK_GPU_ENABLE=$nccl answer $ranks 2 --kv-cache-memory 1GiB --log-level info)
      [ "$one" == "$two" ] || { echo "another answer: $two"; exit 1; }
    done
  done
fi
for type in q4_0 bf16; do
  echo "== Llama 3 8B, $type"
  tests/gpu/random_model.py "$build/llama_3_8b.gguf" --type $type
  speed "$build/llama_3_8b.gguf" "8b_$type"
  rm "$build/llama_3_8b.gguf"
done
echo "Results: $results"
