// counts[k] = number of x with k * width <= x < (k + 1) * width, width = 2**exponent.
//
// exponent depends on the largest |x| alone: the smallest, not under kMinExponent, that puts
// |x| < kBins * width. When it grows, neighbouring bins are added, and since coarse bins are
// unions of fine ones, the state depends only on the multiset of the values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "histogram/kernels.h"

namespace qtool {

constexpr int kMinExponent = -126, kMaxExponent = 127 - 11;

// Of at least one element; the sign of a zero is lost.
float minimum(const Extremes& extremes) noexcept;
float maximum(const Extremes& extremes) noexcept;

// The extremes of elements whose least and greatest are these.
Extremes between(float minimum, float maximum) noexcept;

// The exponent that they ask for; above kMaxExponent when an element is not finite.
int exponent_for(const Extremes& extremes) noexcept;

struct HistogramState {
  Extremes extremes;
  int exponent = kMinExponent;
  int64_t count = 0, n_zeros = 0;
  int64_t counts[2 * kBins] = {};  // of bins -kBins .. kBins - 1; those of zeros are in n_zeros
};

class Histogram {
 public:
  // isa names the kernels to use, "" the fastest.
  explicit Histogram(const char* isa);

  // Counts x (n,), any alignment; false when an element is not finite, and the state is then
  // partly updated. Any number of threads may call it.
  bool update(const float* x, size_t n) noexcept;

  // Adds what another histogram counted: bins first .. first + n - 1 at its own exponent, zeros
  // apart. False, and unchanged, when a sum passes the range of int64_t. The caller has checked
  // that the bins are legal, the counts not negative and that exponent = exponent_for(extremes).
  bool add(const Extremes& extremes, int64_t n_zeros, int first, const int64_t* counts,
           size_t n) noexcept;

  HistogramState state();

  Isa isa() const noexcept { return kernels_.isa; }

 private:
  bool update_block(const float* x, size_t n, size_t n_next) noexcept;
  void flush() noexcept;
  void grow(int exponent) noexcept;

  const HistogramVariant& kernels_;
  std::mutex mutex_;
  HistogramState state_;             // without what is recent
  uint32_t recent_[2 * kBins] = {};  // counts, small so that the cache holds many tensors'
  size_t n_recent_ = 0;              // their sum, which fits 32 bits
};

}  // namespace qtool
