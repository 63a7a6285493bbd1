// Speed of the CPU kernels on SmolLM2-135M's shapes with random weights: each kernel alone, then a
// whole forward step made of them. Best of several repetitions; run it on an otherwise idle
// machine.
//   kernels_bench [threads] [pool | linears | attention | logits | parts | steps | bounds]
//   [kv-int8]
// "bounds" holds each kernel of a step against what the machine can do, measured in between.
#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/activation/gated_matmul.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/dispatch.h"
#include "kernels/embedding/embed.h"
#include "kernels/gemm/matmul.h"
#include "kernels/kv_cache/write_kv.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sampling/logits.h"
#include "tests/bench/roofs.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kHidden = 576, kHeads = 9, kKvHeads = 3, kHeadDim = 64, kFfn = 1536;
constexpr int64_t kVocab = 49152, kLayers = 30;
constexpr int64_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

// Wall clock; with one thread the process's own time, which a busy machine disturbs less.
bool g_processor_time = false;

double Now() {
  timespec t;
  clock_gettime(g_processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double BestSeconds(double budget, const std::function<void()>& body) {
  body();
  double best = 1e30;
  const double start = Now();
  for (int i = 0; i < 3 || Now() - start < budget; ++i) {
    const double before = Now();
    body();
    best = std::min(best, Now() - before);
  }
  return best;
}

PackedMatrix RandomMatrix(ThreadPool& pool, WeightFormat format, int64_t n, int64_t k) {
  std::vector<uint8_t> bytes(n * RowBytes(format, k));
  std::mt19937 random(1);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  // Scales of about 0.01 keep every sum finite.
  const int64_t block = format == WeightFormat::kQ8_0 ? 34 : 20;
  for (size_t i = 0; i < bytes.size(); i += block) {
    bytes[i + 1] = 0x20;
    if (block == 20) bytes[i + 3] = 0xa4;
  }
  auto packed = Pack(pool, format, bytes.data(), n, k);
  Check(packed.status());
  return *std::move(packed);
}

struct Layer {
  PackedMatrix qkv, o, gate_up, down;
};

struct Model {
  explicit Model(ThreadPool& pool)
      : head(RandomMatrix(pool, WeightFormat::kQ8_0, kVocab, kHidden)) {
    for (int64_t i = 0; i < kLayers; ++i) {
      layers.push_back({RandomMatrix(pool, WeightFormat::kQ4_1, kQkv, kHidden),
                        RandomMatrix(pool, WeightFormat::kQ4_1, kHidden, kHidden),
                        RandomMatrix(pool, WeightFormat::kQ4_1, 2 * kFfn, kHidden),
                        RandomMatrix(pool, WeightFormat::kQ4_1, kHidden, kFfn)});
    }
    auto table = RopeTable::Create({.rotary_dim = kHeadDim, .max_positions = 8192, .theta = 1e5});
    Check(table.status());
    rope = *std::move(table);
  }
  std::vector<Layer> layers;
  PackedMatrix head;
  RopeTable rope;
  std::vector<float> norm = std::vector<float>(kHidden, 1.0f);
};

DType kv_dtype = DType::kF16;

// Buffers for up to `rows` rows and sequences of `context` positions before them.
struct Step {
  Step(ThreadPool& pool, Model& model, int64_t batch, int64_t rows_each, int64_t context)
      : pool(pool),
        model(model),
        rows(batch * rows_each),
        hidden(rows * kHidden),
        qkv(rows * kQkv),
        attention(rows * kHeads * kHeadDim),
        gate_up(rows * 2 * kFfn),
        logits(batch * kVocab),
        last(batch * kHidden) {
    const int32_t blocks_each = static_cast<int32_t>((context + rows_each + 31) / 32);
    cache.layout = {kLayers, kKvHeads, kHeadDim, kv_dtype};
    cache.num_blocks = static_cast<int32_t>(batch) * blocks_each;
    auto memory = AlignedBuffer::Allocate(cache.num_blocks * cache.layout.BytesPerBlock());
    Check(memory.status());
    cache_memory = *std::move(memory);
    cache.base = cache_memory.data();
    std::mt19937 random(1);
    auto* const halves = reinterpret_cast<uint16_t*>(cache.base);
    for (size_t i = 0; i < cache_memory.size() / 2; ++i) {
      halves[i] = static_cast<uint16_t>(0x3000 | (random() & 0x8fff));  // about 0.1 to 0.5
    }
    tables.resize(batch);
    for (int64_t b = 0; b < batch; ++b) {
      tables[b].resize(blocks_each);
      std::iota(tables[b].begin(), tables[b].end(), static_cast<int32_t>(b) * blocks_each);
      for (int64_t i = 0; i < rows_each; ++i) {
        const auto position = static_cast<int32_t>(context + i);
        ids.push_back(static_cast<int32_t>((b * 977 + i * 31) % kVocab));
        positions.push_back(position);
        slots.push_back(tables[b][position / 32] * 32 + position % 32);
      }
      last_rows.push_back(static_cast<int32_t>((b + 1) * rows_each - 1));
      sequences.push_back({static_cast<int32_t>(b * rows_each),
                           static_cast<int32_t>(rows_each),
                           static_cast<int32_t>(context),
                           tables[b]});
    }
  }

  MutableMatrix View(std::vector<float>& v, int64_t cols) {
    return MutableMatrix(v.data(), static_cast<int64_t>(v.size()) / cols, cols);
  }

  // All layers' matmuls, or the first layer's as often: weights from memory, or from cache.
  void Linears(bool cached = false) {
    for (int64_t l = 0; l < kLayers; ++l) {
      const Layer& layer = model.layers[cached ? 0 : l];
      Check(QuantizeActivations(pool, View(hidden, kHidden), input));
      Check(Matmul(pool, input, layer.qkv, {}, View(qkv, kQkv)));
      Check(Matmul(pool, input, layer.o, {}, View(attention, kHidden)));
      Check(Matmul(pool, input, layer.gate_up, {}, View(gate_up, 2 * kFfn)));
      Check(QuantizeActivations(pool, View(gate_up, 2 * kFfn).Columns(0, kFfn), wide));
      Check(Matmul(pool, wide, layer.down, {}, View(attention, kHidden)));
    }
  }

  void Head() {
    Check(GatherRows(pool, View(hidden, kHidden), last_rows, View(last, kHidden)));
    Check(RmsNorm(pool, View(last, kHidden), model.norm, 1e-5f, input));
    Check(Matmul(pool, input, model.head, {}, View(logits, kVocab)));
  }

  void Attention() {
    const MutableMatrix q = View(qkv, kQkv).Columns(0, kHeads * kHeadDim);
    for (int32_t l = 0; l < kLayers; ++l) {
      Check(PagedAttention(
          pool, q, cache, l, sequences, 0.125f, workspace, View(attention, kHeads * kHeadDim)));
    }
  }

  // Adds the time since the last mark to part `name`.
  void Mark(const char* name) {
    if (parts == nullptr) return;
    const double now = Now();
    (*parts)[name] += now - last_mark;
    last_mark = now;
  }

  void Everything() {
    if (parts != nullptr) last_mark = Now();
    Check(Embed(pool, model.head, ids, View(hidden, kHidden)));
    Mark("embed");
    const MutableMatrix x = View(hidden, kHidden);
    const MutableMatrix all = View(qkv, kQkv);
    const MutableMatrix heads = View(attention, kHeads * kHeadDim);
    for (int32_t l = 0; l < kLayers; ++l) {
      const Layer& layer = model.layers[l];
      Check(RmsNorm(pool, x, model.norm, 1e-5f, input));
      Mark("norm");
      Check(Matmul(pool, input, layer.qkv, {}, all));
      Mark("qkv");
      const MutableMatrix qk = all.Columns(0, (kHeads + kKvHeads) * kHeadDim);
      Check(ApplyRope(pool, model.rope, RopeStyle::kInterleaved, positions, kHeadDim, qk));
      Mark("rope");
      Check(WriteKv(pool,
                    all.Columns(kHeads * kHeadDim, kKvHeads * kHeadDim),
                    all.Columns((kHeads + kKvHeads) * kHeadDim, kKvHeads * kHeadDim),
                    slots,
                    l,
                    cache));
      Mark("write_kv");
      Check(PagedAttention(
          pool, all.Columns(0, kHeads * kHeadDim), cache, l, sequences, 0.125f, workspace, heads));
      Mark("attention");
      Check(QuantizeActivations(pool, heads, input));
      Mark("quantize");
      Check(Matmul(pool, input, layer.o, {.accumulate = true}, x));
      Mark("o");
      Check(RmsNorm(pool, x, model.norm, 1e-5f, input));
      Mark("norm");
      Check(GatedMatmul(pool, input, layer.gate_up, wide));
      Mark("gate_up+silu");
      Check(Matmul(pool, wide, layer.down, {.accumulate = true}, x));
      Mark("down");
    }
    Head();
    Mark("head");
  }

  std::map<std::string, double>* parts = nullptr;
  double last_mark = 0;
  ThreadPool& pool;
  Model& model;
  int64_t rows;
  std::vector<float> hidden, qkv, attention, gate_up, logits, last;
  std::vector<int32_t> ids, positions, slots, last_rows;
  std::vector<std::vector<int32_t>> tables;
  std::vector<SequenceView> sequences;
  KvCacheView cache;
  AlignedBuffer cache_memory;
  AttentionWorkspace workspace;
  Activations input{ActivationForm::kInt8}, wide{ActivationForm::kInt8};
};

void BenchLinears(ThreadPool& pool, Model& model) {
  double bytes = 0, macs = 0;
  for (const Layer& layer : model.layers) {
    for (const PackedMatrix* w : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      bytes += static_cast<double>(w->bytes());
      macs += static_cast<double>(w->n() * w->k());
    }
  }
  for (int64_t m : {1, 2, 4, 6, 8, 12, 16, 32, 128, 512}) {
    Step step(pool, model, 1, m, 0);
    const double t = BestSeconds(0.7, [&] { step.Linears(); });
    std::printf("linears  m=%-4ld %8.3f ms  %6.1f GB/s  %6.1f GMAC/s  %7.0f rows/s\n",
                m,
                t * 1e3,
                bytes / t / 1e9,
                macs * m / t / 1e9,
                m / t);
  }
  for (int64_t m : {1, 4, 8, 16, 32}) {
    Step step(pool, model, 1, m, 0);
    const double t = BestSeconds(0.3, [&] { step.Linears(/*cached=*/true); });
    std::printf("linears from cache  m=%-4ld %8.3f ms  %6.1f GB/s  %6.1f GMAC/s\n",
                m,
                t * 1e3,
                bytes / t / 1e9,
                macs * m / t / 1e9);
  }
  for (int64_t m : {1, 4, 16, 32}) {
    Step step(pool, model, m, 1, 0);
    const double t = BestSeconds(0.5, [&] { step.Head(); });
    std::printf("head     m=%-4ld %8.3f ms  %6.1f GB/s  %6.1f GMAC/s\n",
                m,
                t * 1e3,
                model.head.bytes() / t / 1e9,
                static_cast<double>(kVocab * kHidden * m) / t / 1e9);
  }
}

void BenchAttention(ThreadPool& pool, Model& model) {
  struct Case {
    int64_t batch, rows, context;
  };
  for (const Case c : {Case{1, 1, 127},
                       Case{16, 1, 127},
                       Case{1, 1, 1023},
                       Case{1, 1, 4095},
                       Case{16, 1, 255},
                       Case{16, 1, 1023},
                       Case{1, 128, 0},
                       Case{1, 512, 0},
                       Case{1, 512, 1536}}) {
    Step step(pool, model, c.batch, c.rows, c.context);
    const double t = BestSeconds(0.5, [&] { step.Attention(); });
    double positions = 0, pairs = 0;
    for (int64_t i = 0; i < c.rows; ++i) pairs += static_cast<double>(c.context + i + 1);
    positions = static_cast<double>(c.context + c.rows) * c.batch;
    const double macs = pairs * c.batch * kHeads * kHeadDim * 2 * kLayers;
    std::printf("attention B=%-3ld rows=%-4ld ctx=%-5ld %8.3f ms  %6.1f GB/s KV  %6.1f GMAC/s\n",
                c.batch,
                c.rows,
                c.context,
                t * 1e3,
                positions * step.cache.layout.BytesPerToken() / t / 1e9,
                macs / t / 1e9);
  }
}

void BenchSteps(ThreadPool& pool, Model& model) {
  struct Case {
    int64_t batch, rows, context;
  };
  for (const Case c : {Case{1, 1, 128},
                       Case{1, 1, 1024},
                       Case{4, 1, 128},
                       Case{16, 1, 128},
                       Case{16, 1, 256},
                       Case{32, 1, 128},
                       Case{1, 128, 0},
                       Case{1, 512, 0},
                       Case{1, 2048, 0}}) {
    Step step(pool, model, c.batch, c.rows, c.context);
    const double t = BestSeconds(1.0, [&] { step.Everything(); });
    std::printf("step B=%-3ld rows=%-4ld ctx=%-5ld %8.3f ms  %7.0f tok/s\n",
                c.batch,
                c.rows,
                c.context,
                t * 1e3,
                static_cast<double>(c.batch * c.rows) / t);
  }
}

// Where the time of a step goes.
void BenchParts(ThreadPool& pool, Model& model) {
  for (const auto& [batch, rows, context] :
       {std::array<int64_t, 3>{1, 1, 128}, {16, 1, 128}, {1, 512, 0}}) {
    Step step(pool, model, batch, rows, context);
    step.Everything();
    std::map<std::string, double> best;
    double best_total = 1e30;
    for (int i = 0; i < 8; ++i) {
      std::map<std::string, double> parts;
      step.parts = &parts;
      step.Everything();
      double total = 0;
      for (const auto& [name, t] : parts) total += t;
      if (total < best_total) best = parts;
      best_total = std::min(best_total, total);
    }
    std::printf("step B=%ld rows=%ld ctx=%ld: %.3f ms\n", batch, rows, context, best_total * 1e3);
    for (const auto& [name, t] : best) std::printf("  %-10s %9.3f ms\n", name.c_str(), t * 1e3);
  }
}

// What one kind of kernel does in a whole step.
struct Work {
  double bytes = 0;       // read, and written to what is not in a register
  bool streamed = false;  // weights: each byte once a step, so from memory
  double int8_macs = 0;
  double float_macs = 0;
};

std::map<std::string, Work> WorkOfStep(const Model& model, const Step& step, int64_t context) {
  const auto m = static_cast<double>(step.rows);
  const auto batch = static_cast<double>(step.last_rows.size());
  const double each = m / batch;
  constexpr double kInt8 =
      1 + 8.0 / 32;  // bytes of an activation: a block has two floats beside it
  std::map<std::string, Work> work;
  const auto matmul = [&](const char* name, const PackedMatrix& w, double rows, double times) {
    work[name] = {.bytes = times * static_cast<double>(w.bytes()),
                  .streamed = true,
                  .int8_macs = times * rows * static_cast<double>(w.n() * w.k())};
  };
  const Layer& layer = model.layers[0];
  matmul("qkv", layer.qkv, m, kLayers);
  matmul("o", layer.o, m, kLayers);
  matmul("gate_up+silu", layer.gate_up, m, kLayers);
  matmul("down", layer.down, m, kLayers);
  matmul("head", model.head, batch, 1);
  const double pairs = m * (static_cast<double>(context) + (each + 1) / 2);  // query and position
  work["attention"] = {
      .bytes = (static_cast<double>(context) + each) * batch * step.cache.layout.BytesPerToken(),
      .streamed = true,
      .float_macs = pairs * kHeads * kHeadDim * 2 * kLayers};
  work["embed"] = {.bytes = m * kHidden * (34.0 / 32 + 4)};
  work["norm"] = {.bytes = 2 * kLayers * m * kHidden * (4 + kInt8)};
  work["quantize"] = {.bytes = kLayers * m * kHidden * (4 + kInt8)};
  work["rope"] = {.bytes = kLayers * m * (kHeads + kKvHeads) * kHeadDim * 8};
  work["write_kv"] = {.bytes = kLayers * m * 2 * kKvHeads * kHeadDim * (4 + 2)};
  return work;
}

// Each kernel of a step as a share of its bound: the longer of reading its bytes and doing its
// arithmetic, as the loops of roofs.h do here and now.
void BenchBounds(ThreadPool& pool, Model& model) {
  if (!CanMeasureRoofs()) {
    std::printf("bounds: this machine has no AVX-512 VNNI\n");
    return;
  }
  g_processor_time = false;  // it would cost a system call for each kernel
  for (const auto& [batch, rows, context] : {std::array<int64_t, 3>{1, 1, 128},
                                             {1, 1, 4095},
                                             {16, 1, 128},
                                             {32, 1, 128},
                                             {1, 128, 0},
                                             {1, 512, 0}}) {
    Step step(pool, model, batch, rows, context);
    const std::map<std::string, Work> work = WorkOfStep(model, step, context);
    double streamed = 0;
    for (const auto& [name, w] : work) streamed += w.streamed ? w.bytes : 0;
    // Kernels and loops in turn, the least of each: the machine's pace changes from second to
    // second.
    std::map<std::string, double> least;
    double read_all = 1e30, int8_mac = 1e30, float_mac = 1e30;
    step.Everything();
    for (int round = 0; round < 5; ++round) {
      read_all = std::min(read_all, SecondsToRead(pool, static_cast<int64_t>(streamed)));
      int8_mac = std::min(int8_mac, SecondsPerInt8Mac(pool));
      float_mac = std::min(float_mac, SecondsPerFloatMac(pool));
      const double start = Now();
      for (int i = 0; i < 6 && (i == 0 || Now() - start < 0.3); ++i) {
        std::map<std::string, double> parts;
        step.parts = &parts;
        step.Everything();
        for (const auto& [name, t] : parts) {
          least[name] = least.contains(name) ? std::min(least[name], t) : t;
        }
      }
    }
    std::printf(
        "step B=%ld rows=%ld ctx=%ld: read %.1f GB/s, int8 %.0f GMAC/s, float %.0f GMAC/s\n",
        batch,
        rows,
        context,
        streamed / read_all / 1e9,
        1e-9 / int8_mac,
        1e-9 / float_mac);
    double total = 0, bounds = 0;
    for (const auto& [name, t] : least) {
      const Work& w = work.at(name);
      // What a layer leaves for the next is in a cache, at the size that one kernel works on.
      const double calls = name == "embed" ? 1 : name == "norm" ? 2 * kLayers : kLayers;
      const double reading =
          w.streamed ? w.bytes / streamed * read_all
                     : calls * SecondsToRead(pool, static_cast<int64_t>(w.bytes / calls));
      const double arithmetic = w.int8_macs * int8_mac + w.float_macs * float_mac;
      const double bound = std::max(reading, arithmetic);
      total += t;
      bounds += bound;
      std::printf("  %-13s %9.1f us  bound %9.1f us (%s)  %5.1f %%\n",
                  name.c_str(),
                  t * 1e6,
                  bound * 1e6,
                  reading > arithmetic ? "read"
                  : w.int8_macs > 0    ? "int8"
                                       : "float",
                  100 * bound / t);
    }
    std::printf("  %-13s %9.1f us  bound %9.1f us         %5.1f %%\n",
                "all",
                total * 1e6,
                bounds * 1e6,
                100 * bounds / total);
  }
}

void BenchLogits() {
  std::vector<float> logits(kVocab);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  for (float& x : logits) x = normal(random);
  std::vector<TokenLogit> found;
  const float max = ArgMax(logits).best.logit;
  const auto report = [](const char* what, const std::function<void()>& body) {
    std::printf("logits   %-16s %7.2f us\n", what, BestSeconds(0.1, body) * 1e6);
  };
  volatile double sink = 0;
  report("ArgMax", [&] { sink = ArgMax(logits).best.logit; });
  report("LogSumExp", [&] { sink = LogSumExp(logits, max); });
  report("TopK(20)", [&] { TopK(logits, 20, found); });
  report("TopK(50)", [&] { TopK(logits, 50, found); });
  report("CollectAtLeast", [&] { CollectAtLeast(logits, max - 6, found); });
  report("CountGreater", [&] { sink = static_cast<double>(CountGreater(logits, 1)); });
}

void BenchPool(ThreadPool& pool) {
  // A part each, done when every thread has come: what starting and meeting costs.
  std::atomic<int> arrived{0};
  const int threads = pool.num_threads();
  const double t = BestSeconds(0.2, [&] {
    for (int i = 1; i <= 1000; ++i) {
      pool.Run([&](int, int) {
        arrived.fetch_add(1);
        while (arrived.load() < i * threads) __builtin_ia32_pause();
      });
    }
    arrived = 0;
  });
  std::printf("pool     region of all     %7.3f us\n", t * 1e3);
}

}  // namespace
}  // namespace paceline::kernels

int main(int argc, char** argv) {
  using namespace paceline::kernels;  // NOLINT
  setlinebuf(stdout);
  Check(SetActiveCpuIsaFromEnvironment());
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  g_processor_time = threads == 1;
  const std::string only = argc > 2 ? argv[2] : "";
  if (argc > 3 && std::string(argv[3]) == "kv-int8") kv_dtype = DType::kI8;
  std::printf("isa %s, %d threads\n", std::string(CpuIsaName(ActiveCpuIsa())).c_str(), threads);
  ThreadPool pool(threads, /*pin=*/false);
  Model model(pool);
  const auto wanted = [&](const char* part) { return only.empty() || only == part; };
  if (wanted("pool")) BenchPool(pool);
  if (wanted("linears")) BenchLinears(pool, model);
  if (wanted("attention")) BenchAttention(pool, model);
  if (wanted("logits")) BenchLogits();
  if (wanted("parts")) BenchParts(pool, model);
  if (wanted("steps")) BenchSteps(pool, model);
  if (wanted("bounds")) BenchBounds(pool, model);
}
