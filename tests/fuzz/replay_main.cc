// Runs a fuzz target without libFuzzer, so that it is an ordinary test under any compiler: each
// seed as it is, then seeded mutations of the seeds. Mutation i depends only on --seed and i, so a
// failure that names i is seen again with --first i --mutations 1.
//
//   gguf_fuzz [--mutations N] [--first I] [--seed S] [--max-bytes B] SEED_FILE_OR_FOLDER…
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// A target may define these, as it would for libFuzzer.
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data,
                                                     size_t size,
                                                     size_t max_size,
                                                     unsigned int seed);
__attribute__((weak)) int LLVMFuzzerInitialize(int* argc, char*** argv);
// There in sanitizer builds, which exit without a signal.
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());
}

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

constexpr unsigned kHangSeconds = 60;  // for one input; only a true hang takes this long
constexpr uint64_t kInteresting[] = {0,
                                     1,
                                     0x7f,
                                     0x80,
                                     0xff,
                                     0x7fff,
                                     0xffff,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     1ULL << 32,
                                     1ULL << 60,
                                     1ULL << 63,
                                     ~0ULL};

std::mt19937_64 random_bits;
char current_input[512] = "start-up";  // what is running, for the crash handlers

size_t RandomBelow(size_t bound) { return bound == 0 ? 0 : random_bits() % bound; }

// One random edit in place; returns the new size, at most `max_size`.
size_t MutateOnce(uint8_t* data, size_t size, size_t max_size) {
  const size_t at = RandomBelow(size);
  switch (RandomBelow(7)) {
    case 0:  // flip a bit
      if (size > 0) data[at] ^= static_cast<uint8_t>(1 << RandomBelow(8));
      return size;
    case 1:  // replace a byte
      if (size > 0) data[at] = static_cast<uint8_t>(random_bits());
      return size;
    case 2: {  // replace a number
      const uint64_t number = kInteresting[RandomBelow(std::size(kInteresting))];
      const size_t width = std::min(size - at, size_t{1} << RandomBelow(4));
      std::memcpy(data + at, &number, width);
      return size;
    }
    case 3:  // cut the end off
      return RandomBelow(size + 1);
    case 4: {  // take bytes out
      const size_t count = RandomBelow(std::min<size_t>(size - at, 32) + 1);
      std::memmove(data + at, data + at + count, size - at - count);
      return size - count;
    }
    case 5: {  // double a run of bytes in place
      const size_t count = RandomBelow(std::min({size - at, max_size - size, size_t{32}}) + 1);
      std::memmove(data + at + count, data + at, size - at);
      return size + count;
    }
    default: {  // copy a run of bytes over another place
      const size_t from = RandomBelow(size);
      const size_t count = RandomBelow(std::min({size - at, size - from, size_t{64}}) + 1);
      std::memmove(data + at, data + from, count);
      return size;
    }
  }
}

}  // namespace

// What libFuzzer gives to custom mutators.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  return MutateOnce(data, size, max_size);
}

namespace {

void PrintCurrentInput() {
  constexpr char kPrefix[] = "\nfuzz replay: it happened with ";
  (void)!write(STDERR_FILENO, kPrefix, sizeof(kPrefix) - 1);
  (void)!write(STDERR_FILENO, current_input, std::strlen(current_input));
  (void)!write(STDERR_FILENO, "\n", 1);
}

void OnFatalSignal(int number) {
  PrintCurrentInput();
  signal(number, SIG_DFL);
  raise(number);
}

// Runs an exactly sized heap copy, so that a sanitizer sees a read past the end.
void RunOne(const Bytes& input) {
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[input.size()]);
  std::copy(input.begin(), input.end(), copy.get());
  alarm(kHangSeconds);
  LLVMFuzzerTestOneInput(copy.get(), input.size());
  alarm(0);
}

Bytes Mutated(const std::vector<Bytes>& seeds, size_t max_bytes) {
  Bytes input = seeds[RandomBelow(seeds.size())];
  size_t size = std::min(input.size(), max_bytes);
  input.resize(max_bytes);
  for (size_t edits = 1 + RandomBelow(4); edits > 0; --edits) {
    const bool custom = LLVMFuzzerCustomMutator != nullptr && RandomBelow(2) == 0;
    size = custom ? LLVMFuzzerCustomMutator(
                        input.data(), size, max_bytes, static_cast<unsigned int>(random_bits()))
                  : MutateOnce(input.data(), size, max_bytes);
  }
  input.resize(size);
  return input;
}

// Files in the order of their names, so that mutation i is the same on every machine.
std::vector<fs::path> SeedFiles(const std::vector<std::string>& arguments) {
  std::vector<fs::path> files;
  for (const std::string& argument : arguments) {
    if (!fs::is_directory(argument)) {
      files.emplace_back(argument);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(argument)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

struct Arguments {
  uint64_t mutations = 0;
  uint64_t first = 0;
  uint64_t seed = 1;
  size_t max_bytes = 1 << 16;
  std::vector<std::string> paths;
};

bool ParseArguments(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0) {
      arguments.paths.push_back(name);
      continue;
    }
    if (++i == argc) return false;
    const uint64_t value = std::strtoull(argv[i], nullptr, 10);
    if (name == "--mutations") {
      arguments.mutations = value;
    } else if (name == "--first") {
      arguments.first = value;
    } else if (name == "--seed") {
      arguments.seed = value;
    } else if (name == "--max-bytes") {
      arguments.max_bytes = value;
    } else {
      return false;
    }
  }
  return !arguments.paths.empty();
}

}  // namespace

int main(int argc, char** argv) {
  if (LLVMFuzzerInitialize != nullptr) LLVMFuzzerInitialize(&argc, &argv);
  Arguments arguments;
  if (!ParseArguments(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: %s [--mutations N] [--first I] [--seed S] [--max-bytes B] SEEDS...\n",
                 argv[0]);
    return 2;
  }
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM}) {
    signal(number, OnFatalSignal);
  }
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(PrintCurrentInput);

  std::vector<Bytes> seeds;
  for (const fs::path& path : SeedFiles(arguments.paths)) {
    std::ifstream file(path, std::ios::binary);
    Bytes seed{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file.is_open() || file.bad()) {
      std::fprintf(stderr, "%s: cannot read it\n", path.c_str());
      return 2;
    }
    std::snprintf(current_input, sizeof(current_input), "seed file %s", path.c_str());
    RunOne(seed);
    seeds.push_back(std::move(seed));
  }
  if (seeds.empty()) {
    std::fprintf(stderr, "no seed files in %s\n", arguments.paths[0].c_str());
    return 2;
  }
  for (uint64_t i = arguments.first; i < arguments.first + arguments.mutations; ++i) {
    random_bits.seed(arguments.seed * 0x9e3779b97f4a7c15ULL + i);
    std::snprintf(current_input,
                  sizeof(current_input),
                  "mutation %llu; again: --seed %llu --first %llu --mutations 1 and the same seeds",
                  static_cast<unsigned long long>(i),
                  static_cast<unsigned long long>(arguments.seed),
                  static_cast<unsigned long long>(i));
    RunOne(Mutated(seeds, arguments.max_bytes));
  }
  std::printf("%zu seeds and %llu mutations ran\n",
              seeds.size(),
              static_cast<unsigned long long>(arguments.mutations));
  return 0;
}
