// What scripts/check_variants.cpp draws cases with, and compares bytes with.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "isa.h"

using namespace qtool;
using Bytes = std::vector<uint8_t>;

constexpr uint8_t kUntouched = 170;  // what lies between rows of y must stay

inline std::map<std::string, long> g_compared;

struct Random {
  std::mt19937_64 engine;

  int64_t between(int64_t low, int64_t high) {
    return low + int64_t(engine() % uint64_t(high - low + 1));
  }
  bool one_in(int n) { return between(1, n) == 1; }
  // Often one of the ends.
  int32_t byte() { return one_in(3) ? (one_in(2) ? 0 : 255) : int32_t(between(0, 255)); }
  int32_t zero_point() { return one_in(2) ? 0 : byte(); }  // 0 as after Relu
  float real(float most) { return most * (float(engine() >> 40) / float(1 << 23) - 1); }
};

inline void compare(const std::string& name, const void* a, const void* b, size_t n_bytes,
                    unsigned long long number) {
  ++g_compared[name];
  if (std::memcmp(a, b, n_bytes) == 0) return;
  std::fprintf(stderr, "check_variants: %s differs from the scalar kernel in case %llu\n",
               name.c_str(), number);
  std::exit(1);
}

// Floats as bytes, all NaN alike.
inline void compare_floats(const std::string& name, std::vector<float> a, std::vector<float> b,
                           unsigned long long number) {
  for (std::vector<float>* v : {&a, &b}) {
    for (float& x : *v) x = x == x ? x : -1234567.0f;
  }
  compare(name, a.data(), b.data(), a.size() * sizeof(float), number);
}
