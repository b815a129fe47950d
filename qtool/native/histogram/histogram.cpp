#include "histogram/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "histogram/one.h"

namespace qtool {
namespace {

const HistogramVariant kVariants[] = {
#define QTOOL_HISTOGRAM(isa, bin) {isa, bin},
#include "histogram/kernels.inc"
#undef QTOOL_HISTOGRAM
};

constexpr size_t kBlock = 4096;  // elements: 16 KiB, which stays in the first cache
constexpr size_t kMostRecent = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kSign = 0x80000000;

float from_bits(uint32_t bits) noexcept {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x == 0 ? 0.0f : x;
}

// Runs of equal values, such as a clamp leaves, are added as one: else each increment would wait
// for the store of the one before.
void increment_runs(const uint16_t* bins, size_t n, uint32_t* counts) noexcept {
  for (size_t i = 0; i < n;) {
    const size_t start = i;
    while (i < n && bins[i] == bins[start]) ++i;
    counts[bins[start]] += static_cast<uint32_t>(i - start);
  }
}

// Meanwhile brings the next block into the cache, as far as there is one: incrementing leaves the
// memory idle, and the kernel then waits for nothing else.
void increment(const uint16_t* bins, size_t n, uint32_t* counts, const float* next,
               size_t n_next) noexcept {
  constexpr size_t kStep = 16, kLine = 16;  // bins; floats
  size_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    if (2 * i + kLine < n_next) {  // two lines, since often half of the elements are 0
      __builtin_prefetch(next + 2 * i);
      __builtin_prefetch(next + 2 * i + kLine);
    }
    if (bins[i] == bins[i + kStep - 1]) {  // perhaps a run; in most data hardly ever
      increment_runs(bins + i, kStep, counts);
      continue;
    }
    for (size_t j = i; j < i + kStep; ++j) ++counts[bins[j]];
  }
  for (; i < n; ++i) ++counts[bins[i]];
}

}  // namespace

float minimum(const Extremes& extremes) noexcept {
  return from_bits(extremes.lowest >= kSign ? extremes.lowest : extremes.nearest);
}

float maximum(const Extremes& extremes) noexcept {
  return from_bits(extremes.highest >= 0 ? static_cast<uint32_t>(extremes.highest)
                                         : extremes.nearest);
}

Extremes between(float minimum, float maximum) noexcept {
  Extremes extremes;
  see_one(minimum, extremes);
  see_one(maximum, extremes);
  return extremes;
}

int exponent_for(const Extremes& extremes) noexcept {
  const uint32_t positive = static_cast<uint32_t>(std::max(extremes.highest, 0));
  const uint32_t negative = extremes.lowest >= kSign ? extremes.lowest - kSign : 0;
  const int biased = static_cast<int>(std::max(positive, negative) >> 23);
  return std::max(biased - 127 - 11, kMinExponent);
}

Histogram::Histogram(const char* isa) : kernels_(select(kVariants, isa)) {}

bool Histogram::update(const float* x, size_t n) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < n; i += kBlock) {
    const size_t size = std::min(kBlock, n - i);
    if (!update_block(x + i, size, std::min(kBlock, n - i - size))) return false;
  }
  return true;
}

bool Histogram::update_block(const float* x, size_t n, size_t n_next) noexcept {
  uint16_t bins[kBlock + kBinSlack];
  Extremes extremes = state_.extremes;
  size_t counted = kernels_.bin(x, n, std::ldexp(1.0f, -state_.exponent), extremes, bins);
  const int exponent = exponent_for(extremes);
  if (exponent > kMaxExponent) return false;
  if (exponent > state_.exponent) {  // not all bins were legal
    flush();
    grow(exponent);
    counted = kernels_.bin(x, n, std::ldexp(1.0f, -exponent), extremes, bins);
  }
  if (n_recent_ > kMostRecent - counted) flush();
  increment(bins, counted, recent_, x + n, n_next);
  n_recent_ += counted;
  state_.extremes = extremes;
  state_.n_zeros += static_cast<int64_t>(n - counted);
  state_.count += static_cast<int64_t>(n);
  return true;
}

void Histogram::flush() noexcept {
  for (int bin = 0; bin < 2 * kBins; ++bin) state_.counts[bin] += recent_[bin];
  std::fill(std::begin(recent_), std::end(recent_), 0u);
  n_recent_ = 0;
}

void Histogram::grow(int exponent) noexcept {
  const int shift = std::min(exponent - state_.exponent, 31);
  state_.exponent = exponent;
  int64_t* const zero = state_.counts + kBins;
  const auto move = [&](int bin) {
    const int64_t count = zero[bin];
    zero[bin] = 0;
    zero[bin >> shift] += count;  // arithmetic: rounds down
  };
  for (int bin = 0; bin < kBins; ++bin) move(bin);
  for (int bin = -1; bin >= -kBins; --bin) move(bin);
}

bool Histogram::add(const Extremes& extremes, int64_t n_zeros, int first, const int64_t* counts,
                    size_t n) noexcept {
  int64_t total = n_zeros;
  for (size_t i = 0; i < n; ++i) {
    if (__builtin_add_overflow(total, counts[i], &total)) return false;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  // Every count of the sum is at most the sum of all.
  if (__builtin_add_overflow(state_.count, total, &total)) return false;
  state_.count = total;
  const int exponent = exponent_for(extremes);
  flush();
  if (exponent > state_.exponent) grow(exponent);
  const int shift = std::min(state_.exponent - exponent, 31);
  for (size_t i = 0; i < n; ++i) {
    state_.counts[((first + static_cast<int>(i)) >> shift) + kBins] += counts[i];
  }
  state_.n_zeros += n_zeros;
  merge_lane(extremes.highest, extremes.lowest, extremes.nearest, state_.extremes);
  return true;
}

HistogramState Histogram::state() {
  const std::lock_guard<std::mutex> lock(mutex_);
  flush();
  return state_;
}

}  // namespace qtool
