// How fast the kernels for CUDA are, on the shapes of Llama 3 8B and as shares of what a copy
// reaches: one JSON object on standard output. --tiny: sizes at which the emulation can show that
// the program works; its times mean nothing.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/paged_decode_device.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/device/runtime.h"
#include "kernels/gemm/matmul_device.h"
#include "kernels/half.h"
#include "kernels/kv_cache/kv_blocks_device.h"
#include "kernels/sampling/logits_device.h"

namespace paceline::kernels {
namespace {

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", std::string(status.ToString()).c_str());
  std::exit(1);
}
void Check(const absl::Status& status) {
  if (!status.ok()) Die(status);
}
template <typename T>
T Value(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

// Device memory that lives as long as the program, or as the group of measurements it is for.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    for (void* memory : all_) device::Free(memory);
  }
  template <typename T>
  T* Put(const std::vector<T>& values) {
    T* const to = Reserve<T>(static_cast<int64_t>(values.size()));
    Check(device::Copy(nullptr, to, values.data(), values.size() * sizeof(T)));
    Check(device::Synchronize(nullptr));
    return to;
  }
  template <typename T>
  T* Reserve(int64_t count) {
    all_.push_back(Value(device::Allocate(count * sizeof(T))));
    return static_cast<T*>(all_.back());
  }
  // `bytes` of a pattern that is repeated. Never zeros: they are multiplied faster.
  template <typename T>
  T* Fill(int64_t count, const std::vector<T>& pattern) {
    T* const to = Reserve<T>(count);
    for (int64_t i = 0; i < count; i += static_cast<int64_t>(pattern.size())) {
      const int64_t n = std::min<int64_t>(count - i, static_cast<int64_t>(pattern.size()));
      Check(device::Copy(nullptr, to + i, pattern.data(), n * sizeof(T)));
    }
    Check(device::Synchronize(nullptr));
    return to;
  }

 private:
  std::vector<void*> all_;
};

std::vector<float> RandomFloats(int64_t count, float spread) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}
std::vector<uint16_t> RandomBf16(int64_t count) {
  std::vector<uint16_t> bits;
  for (const float value : RandomFloats(count, 1.0f)) bits.push_back(FloatToBfloat16(value));
  return bits;
}

class Bench {
 public:
  explicit Bench(bool tiny) : tiny_(tiny) {}

  bool tiny() const { return tiny_; }
  // `full`, or in emulation `tiny`.
  int32_t Size(int32_t full, int32_t tiny) const { return tiny_ ? tiny : full; }

  // Times run(i) (i counts up), which moves so many bytes and does so many operations. The best of
  // five rounds, each long enough for the clock.
  void Measure(const std::string& name,
               double bytes,
               double operations,
               const std::function<absl::Status(int)>& run) {
    using Clock = std::chrono::steady_clock;
    int next = 0;
    const auto seconds = [&](int count) {
      Check(device::Synchronize(nullptr));
      const auto start = Clock::now();
      for (int i = 0; i < count; ++i) Check(run(next++));
      Check(device::Synchronize(nullptr));
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    double best = seconds(1);
    if (!tiny_) {
      const int count = std::clamp(static_cast<int>(0.1 / seconds(3) * 3), 3, 5000);
      best = std::numeric_limits<double>::infinity();
      for (int round = 0; round < 5; ++round) best = std::min(best, seconds(count) / count);
    }
    nlohmann::ordered_json result = {{"name", name}, {"us", best * 1e6}};
    if (bytes > 0) {
      const double rate = bytes / best;
      if (copy_rate_ == 0) copy_rate_ = rate;
      result["GB/s"] = rate / 1e9;
      result["of_copy"] = rate / copy_rate_;
    }
    if (operations > 0) result["TFLOP/s"] = operations / best / 1e12;
    results_.push_back(result);
  }

  const nlohmann::ordered_json& results() const { return results_; }

 private:
  const bool tiny_;
  double copy_rate_ = 0;  // of the first measurement
  nlohmann::ordered_json results_ = nlohmann::ordered_json::array();
};

// What every other rate is a share of.
void MeasureCopy(Bench& bench) {
  Memory memory;
  const int64_t block_bytes = bench.Size(16 << 20, 131072);
  const int32_t count = bench.Size(64, 2);
  const DeviceKvBlocks blocks{.base = memory.Reserve<char>(2 * count * block_bytes),
                              .layer_bytes = 2 * count * block_bytes,
                              .block_bytes = block_bytes,
                              .num_layers = 1};
  std::vector<BlockCopy> copies;
  for (int32_t i = 0; i < count; ++i) copies.push_back({i, count + i});
  bench.Measure("copy", 2.0 * count * static_cast<double>(block_bytes), 0, [&](int) {
    return DeviceCopyBlocks(nullptr, blocks, copies);
  });
}

constexpr int32_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kPageSize = 32;
constexpr float kScale = 0.0883883f;

int64_t PageElements() { return int64_t{kPageSize} * kKvHeads * 2 * kHeadDim; }

void MeasureDecode(Bench& bench, int32_t batch, int32_t context, DType kv_dtype) {
  Memory memory;
  const int32_t pages = context / kPageSize;
  // Of a cache of 8 bits the scales are what random bits make of them: finite and small.
  const KvLayout layer{
      .num_layers = 1, .num_kv_heads = kKvHeads, .head_dim = kHeadDim, .dtype = kv_dtype};
  static_assert(kPageSize == kKvBlockSize);
  const int64_t page_bytes = layer.BytesPerBlock();
  std::vector<int32_t> table(batch * pages), lengths(batch, context);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  std::shuffle(table.begin(), table.end(), std::mt19937(3));
  const DecodePlan plan = PlanPagedDecode(lengths, kKvHeads);
  const auto num_items = static_cast<int32_t>(plan.items.size());
  const std::vector<uint16_t> random = RandomBf16(1 << 16);
  const PagedDecodeArgs args{
      .q = memory.Put(RandomBf16(int64_t{batch} * kHeads * kHeadDim)),
      .q_stride = kHeads * kHeadDim,
      .kv = memory.Fill(int64_t{batch} * pages * page_bytes / 2, random),
      .page_table = memory.Put(table),
      .lengths = memory.Put(lengths),
      .items = memory.Put(plan.items),
      .first_item = memory.Put(plan.first_item),
      .partials = memory.Reserve<float>(DecodePartialFloats(num_items, kHeads, kKvHeads, kHeadDim)),
      .out = memory.Reserve<uint16_t>(int64_t{batch} * kHeads * kHeadDim),
      .num_sequences = batch,
      .num_items = num_items,
      .max_pages = pages,
      .page_size = kPageSize,
      .num_heads = kHeads,
      .num_kv_heads = kKvHeads,
      .head_dim = kHeadDim,
      .scale = kScale,
      .dtype = DType::kBF16,
      .kv_dtype = kv_dtype};
  bench.Measure("decode attention, " + std::to_string(batch) + " x " + std::to_string(context) +
                    (kv_dtype == DType::kI8     ? ", int8"
                     : kv_dtype == DType::kE4M3 ? ", fp8"
                                                : ", bf16"),
                static_cast<double>(batch) * pages * static_cast<double>(page_bytes),
                0,
                [&](int) { return PagedDecode(nullptr, args); });
}

void MeasurePrefill(Bench& bench, int32_t rows, bool wgmma) {
  if (wgmma && !CheckPrefillWgmma(kHeadDim, DType::kBF16, DType::kBF16).ok()) return;
  Memory memory;
  const int32_t pages = rows / kPageSize;
  std::vector<int32_t> table(pages);
  for (int32_t i = 0; i < pages; ++i) table[i] = pages - 1 - i;
  const std::vector<PrefillSequence> sequences = {{0, rows, 0}};
  const std::vector<PrefillItem> plan =
      PlanPagedPrefill(sequences, kHeads, kKvHeads, wgmma ? kWgmmaPrefillVectors : kPrefillVectors);
  const std::vector<uint16_t> random = RandomBf16(1 << 16);
  const PagedPrefillArgs args{.q = memory.Fill(int64_t{rows} * kHeads * kHeadDim, random),
                              .q_stride = kHeads * kHeadDim,
                              .kv = memory.Fill(pages * PageElements(), random),
                              .page_table = memory.Put(table),
                              .sequences = memory.Put(sequences),
                              .items = memory.Put(plan),
                              .out = memory.Reserve<uint16_t>(int64_t{rows} * kHeads * kHeadDim),
                              .num_items = static_cast<int32_t>(plan.size()),
                              .max_pages = pages,
                              .page_size = kPageSize,
                              .num_heads = kHeads,
                              .num_kv_heads = kKvHeads,
                              .head_dim = kHeadDim,
                              .scale = kScale,
                              .dtype = DType::kBF16,
                              .kv_dtype = DType::kBF16};
  bench.Measure(
      std::string("prefill attention") + (wgmma ? " with wgmma, " : ", ") + std::to_string(rows) +
          " rows, bf16",
      0,
      2.0 * rows * rows * kHeads * kHeadDim,  // two products, half of them masked
      [&](int) { return wgmma ? PagedPrefillWgmma(nullptr, args) : PagedPrefill(nullptr, args); });
}

// Weights of one format, several times, so that no cache holds them from call to call.
void MeasureMatmul(Bench& bench, const std::string& name, DeviceFormat format) {
  const int32_t n = bench.Size(14336, 32), k = bench.Size(4096, 64);
  const int64_t value_bytes = int64_t{n} * k *
                              (format == DeviceFormat::kBF16 ? 16
                               : format == DeviceFormat::kQ8 ? 8
                                                             : 4) /
                              8;
  const int64_t num_scales = format == DeviceFormat::kBF16
                                 ? 0
                                 : int64_t{n} * k / 32 * (format == DeviceFormat::kQ4 ? 2 : 1);
  constexpr int kCopies = 4;
  Memory memory;
  const std::vector<uint16_t> random = RandomBf16(1 << 16);
  std::vector<uint16_t> small(1 << 12, FloatToHalf(0.01f));
  std::vector<DeviceMatrix> weights;
  for (int i = 0; i < kCopies; ++i) {
    weights.push_back({format,
                       memory.Fill(value_bytes / 2, random),
                       num_scales == 0 ? nullptr : memory.Fill(num_scales, small),
                       n,
                       k});
  }
  for (const int32_t rows : {1, 8, 32, 64, 256, 2048}) {
    if (bench.tiny() && rows > 64) continue;
    Memory rows_memory;
    const auto* const x = rows_memory.Fill(int64_t{rows} * k, random);
    auto* const y = rows_memory.Reserve<float>(int64_t{rows} * n);
    bench.Measure("matmul " + name + ", " + std::to_string(rows) + " rows",
                  static_cast<double>(value_bytes + 2 * num_scales),
                  2.0 * rows * n * k,
                  [&](int i) {
                    return DeviceMatmul(nullptr,
                                        {.x = x,
                                         .w = weights[i % kCopies],
                                         .y = y,
                                         .rows = rows,
                                         .dtype = DType::kBF16,
                                         .y_dtype = DType::kF32});
                  });
  }
}

void MeasureSampling(Bench& bench, int32_t rows) {
  const int32_t vocab_size = bench.Size(128256, 600);
  Memory memory;
  const DeviceLogits logits{memory.Fill(int64_t{rows} * vocab_size, RandomFloats(1 << 17, 3.0f)),
                            vocab_size,
                            rows,
                            vocab_size};
  auto* const best = memory.Reserve<DeviceBestLogit>(rows);
  auto* const tokens = memory.Reserve<int32_t>(rows);
  const double bytes = 4.0 * rows * vocab_size;
  const std::string of = ", " + std::to_string(rows) + " x " + std::to_string(vocab_size);
  bench.Measure("argmax" + of, bytes, 0, [&](int) { return DeviceArgMax(nullptr, logits, best); });
  for (const bool top_p : {false, true}) {
    const std::vector<DeviceSampleRow> params(
        rows,
        {.inverse_temperature = 1,
         .log_min_p = -std::numeric_limits<double>::infinity(),
         .top_p = top_p ? 0.9 : 1.0,
         .top_k = top_p ? 0 : 50,
         .seed = 1});
    const auto* const device_params = memory.Put(params);
    bench.Measure(
        std::string(top_p ? "sample top_p 0.9" : "sample top_k 50") + of, bytes, 0, [&](int) {
          return DeviceSample(nullptr, logits, device_params, nullptr, tokens);
        });
  }
}

int Main(bool tiny) {
  const std::vector<device::DeviceInfo> devices = Value(device::ListDevices());
  Check(device::UseDevice(devices[0].index));
  Bench bench(tiny);
  MeasureCopy(bench);
  for (const DType kv_dtype : {DType::kBF16, DType::kI8, DType::kE4M3}) {
    MeasureDecode(bench, bench.Size(1, 1), bench.Size(1024, 64), kv_dtype);
    MeasureDecode(bench, bench.Size(64, 2), bench.Size(4096, 320), kv_dtype);
  }
  for (const int32_t rows : {1024, 4096, 16384}) {
    if (tiny && rows != 1024) continue;
    for (const bool wgmma : {false, true}) MeasurePrefill(bench, bench.Size(rows, 32), wgmma);
  }
  MeasureMatmul(bench, "bf16", DeviceFormat::kBF16);
  MeasureMatmul(bench, "Q8_0", DeviceFormat::kQ8);
  MeasureMatmul(bench, "Q4", DeviceFormat::kQ4);
  MeasureSampling(bench, 1);
  MeasureSampling(bench, bench.Size(64, 2));
  std::cout << nlohmann::ordered_json{{"device", devices[0].name},
                                      {"kind", devices[0].kind},
                                      {"results", bench.results()}}
                   .dump(2)
            << "\n";
  return 0;
}

}  // namespace
}  // namespace paceline::kernels

int main(int argc, char** argv) {
  return paceline::kernels::Main(argc > 1 && std::strcmp(argv[1], "--tiny") == 0);
}
