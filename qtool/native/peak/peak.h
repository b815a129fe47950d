// The most multiply-accumulates of 8-bit integers that one core does: what a kernel can reach.
#pragma once

#include <cstdint>

namespace qtool {

// The instruction of a kind of kernel, repeated on registers alone.
struct Peak {
  const char* kernel;  // what names of kernels end in: "avx512vnni", "amx", ...
  bool (*supported)() noexcept;
  int64_t macs;  // of one step
  void (*run)(int64_t steps) noexcept;
};

int n_peaks() noexcept;
const Peak& peak(int i) noexcept;

// The best rate of some tries that take about `seconds` together, in 1e9 MACs per second; 0 where
// this machine does not have the instruction.
double measure_peak(const Peak& peak, double seconds);

}  // namespace qtool
