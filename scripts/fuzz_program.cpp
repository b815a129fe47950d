// Damages Programs and runs what the validator lets through. Built with the sanitizers by
// scripts/fuzz_programs.py, which gives it seeds; a finding is any report of theirs.
//
//     fuzz_program CASES SEED program...
//
// Case N of seed S is the same everywhere. What passes gets inputs and outputs of exactly the
// size that it asks for, so that a kernel that leaves them is seen.
#include <sanitizer/common_interface_defs.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "qtool/qtool.h"

namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr size_t kHeaderBytes = 128, kTensorBytes = 64;
constexpr uint64_t kMostBytes = 16 << 20;  // of an arena, inputs, outputs: what is larger is slow
constexpr int64_t kWords[] = {0,          1,         2,   3,   4,    7,     8,         15,
                              16,         63,        64,  65,  127,  128,   129,       255,
                              256,        257,       511, 512, 4096, 32767, 65535,     INT32_MAX,
                              UINT32_MAX, INT64_MAX, -1,  -2,  -64,  -128,  INT32_MIN, INT64_MIN};

unsigned long long g_case;

void report_case() { std::fprintf(stderr, "fuzz_program: case %llu\n", g_case); }

template <typename T>
T read(const Bytes& bytes, size_t at) {
  T value{};
  if (at + sizeof value <= bytes.size()) std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <typename T>
void write(Bytes& bytes, size_t at, T value) {
  if (at + sizeof value <= bytes.size()) std::memcpy(bytes.data() + at, &value, sizeof value);
}

size_t below(Random& random, size_t n) { return n == 0 ? 0 : random() % n; }

int64_t word(Random& random, int64_t old) {
  switch (below(random, 4)) {
    case 0:
      return int64_t(uint64_t(old) + below(random, 3) - 1);
    case 1:
      return int64_t(uint64_t(old) * 2);
    default:
      return kWords[below(random, std::size(kWords))];
  }
}

// Makes the bytes of a tensor follow from its shape again, so that ops see the shape.
void mend_tensor(Bytes& bytes, size_t at) {
  constexpr int64_t kItem[] = {1, 4, 1, 1, 4, 8, 2, 2, 1, 8};
  const uint8_t dtype = bytes[at], rank = bytes[at + 1];
  if (dtype > 9 || rank > 6) return;
  uint64_t rows = 1, columns = 1;
  for (size_t i = 0; i < rank; ++i) {
    rows *= columns;
    columns = uint64_t(int64_t{read<int32_t>(bytes, at + 8 + 4 * i)});
  }
  auto pitch = uint64_t(int64_t{read<int32_t>(bytes, at + 4)});
  if (pitch < columns) write(bytes, at + 4, int32_t(pitch = columns));
  write(bytes, at + 40, ((rows - 1) * pitch + columns) * uint64_t(kItem[dtype]));
}

void change_tensor(Bytes& bytes, Random& random, size_t tensors, size_t n) {
  if (n == 0) return;
  const size_t at = tensors + kTensorBytes * below(random, n);
  if (at + kTensorBytes > bytes.size()) return;
  switch (below(random, 5)) {
    case 0:
      bytes[at + below(random, 3)] = uint8_t(below(random, 11));  // dtype, rank, kind
      break;
    case 1:
      write(bytes, at + 32, word(random, read<int64_t>(bytes, at + 32)));  // offset
      break;
    case 2:
      std::memcpy(&bytes[at], &bytes[tensors + kTensorBytes * below(random, n)], kTensorBytes);
      break;
    default: {
      const size_t field = at + 4 + 4 * below(random, 7);  // pitch, dims
      write(bytes, field, int32_t(word(random, read<int32_t>(bytes, field))));
    }
  }
  if (below(random, 8) > 0) mend_tensor(bytes, at);
}

void change_ops(Bytes& bytes, Random& random, size_t ops, size_t ops_bytes) {
  const size_t at = ops + below(random, ops_bytes);
  switch (below(random, 4)) {
    case 0:
      write(bytes, at, uint8_t(random()));
      break;
    case 1:
      write(bytes, at / 4 * 4, int32_t(word(random, read<int32_t>(bytes, at / 4 * 4))));
      break;
    case 2:
      write(bytes, at / 8 * 8, read<int64_t>(bytes, ops + below(random, ops_bytes) / 8 * 8));
      break;
    default:
      write(bytes, at / 8 * 8, word(random, read<int64_t>(bytes, at / 8 * 8)));
  }
}

void mutate(Bytes& bytes, Random& random) {
  const size_t tensors = read<uint64_t>(bytes, 32), ops = read<uint64_t>(bytes, 40);
  const size_t n_tensors = read<uint32_t>(bytes, 12), ops_bytes = read<uint64_t>(bytes, 48);
  for (size_t i = 1 + below(random, 4); i > 0; --i) {
    const size_t kind = below(random, 100);
    if (kind < 40) {
      change_tensor(bytes, random, tensors, n_tensors);
    } else if (kind < 85) {
      change_ops(bytes, random, ops, ops_bytes);
    } else if (kind < 92) {
      const size_t at = below(random, kHeaderBytes / 4) * 4;
      write(bytes, at, uint32_t(word(random, read<uint32_t>(bytes, at))));
    } else if (kind < 98) {
      bytes[below(random, bytes.size())] = uint8_t(random());
    } else {
      bytes.resize(below(random, bytes.size() + 64));
      return;
    }
  }
}

bool is_small(const Bytes& bytes) { return read<uint64_t>(bytes, 72) <= kMostBytes; }

// Memory of exactly n bytes, of any content.
std::unique_ptr<uint8_t[]> memory(size_t n_bytes, Random& random) {
  std::unique_ptr<uint8_t[]> made(new uint8_t[n_bytes]);
  for (size_t i = 0; i < n_bytes; ++i) made[i] = uint8_t(random());
  return made;
}

bool run(const Bytes& bytes, Random& random) {
  const char* isas[] = {"scalar", "avx2", "avxvnni", "avx512", nullptr};
  const qtool_options options{below(random, 16) == 0 ? 2 : 1, isas[below(random, std::size(isas))]};
  char error[256];
  qtool_session* session = qtool_open(bytes.data(), bytes.size(), &options, error, sizeof error);
  if (session == nullptr) return false;
  std::vector<std::unique_ptr<uint8_t[]>> owned;
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  size_t total = 0;
  for (int i = 0; i < qtool_n_inputs(session); ++i) total += qtool_input(session, i)->n_bytes;
  for (int i = 0; i < qtool_n_outputs(session); ++i) total += qtool_output(session, i)->n_bytes;
  if (total <= kMostBytes) {
    for (int i = 0; i < qtool_n_inputs(session); ++i) {
      owned.push_back(memory(qtool_input(session, i)->n_bytes, random));
      inputs.push_back(owned.back().get());
    }
    for (int i = 0; i < qtool_n_outputs(session); ++i) {
      owned.push_back(memory(qtool_output(session, i)->n_bytes, random));
      outputs.push_back(owned.back().get());
    }
    if (qtool_run(session, inputs.data(), outputs.data()) != 0) std::abort();
  }
  qtool_close(session);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const unsigned long long cases = std::strtoull(argv[1], nullptr, 10);
  const unsigned long long seed = std::strtoull(argv[2], nullptr, 10);
  std::vector<Bytes> seeds;
  for (int i = 3; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  __sanitizer_set_death_callback(report_case);
  unsigned long long accepted = 0, large = 0;
  std::vector<unsigned long long> ran(seeds.size());
  for (g_case = 0; g_case < cases; ++g_case) {
    Random random(seed * 1000003 + g_case);
    Bytes bytes = seeds[g_case % seeds.size()];
    if (g_case >= seeds.size()) mutate(bytes, random);
    if (!is_small(bytes)) {
      ++large;
    } else if (run(bytes, random)) {
      ++accepted;
      ++ran[g_case % seeds.size()];
    } else if (g_case < seeds.size()) {
      std::fprintf(stderr, "fuzz_program: seed %s is refused\n", argv[3 + g_case]);
      return 1;
    }
  }
  for (size_t i = 0; i < seeds.size(); ++i) {
    const char* name = std::strrchr(argv[3 + i], '/');
    std::fprintf(stderr, "%8llu ran of %s\n", ran[i], name == nullptr ? argv[3 + i] : name + 1);
  }
  std::printf("{\"cases\": %llu, \"ran\": %llu, \"too_large\": %llu}\n", cases, accepted, large);
}
