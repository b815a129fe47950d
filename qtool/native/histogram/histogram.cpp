#include "histogram/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

namespace qtool {
namespace {

const HistogramVariant kVariants[] = {
#define QTOOL_HISTOGRAM(isa, scan, bin) {isa, scan, bin},
#include "histogram/kernels.inc"
#undef QTOOL_HISTOGRAM
};

constexpr size_t kBlock = 4096;             // elements: 16 KiB, which stays in the first cache
constexpr size_t kFew = 1024;               // elements that are not worth a flush of the tables
constexpr size_t kFlush = size_t{1} << 31;  // elements whose counts surely fit 32 bits
constexpr uint32_t kInfinity = 0x7f800000;

int bin_of(float x, int exponent) noexcept {
  return static_cast<int>(std::floor(std::ldexp(static_cast<double>(x), -exponent)));
}

}  // namespace

// Four tables take turns, so that runs of equal values do not wait for each other's stores.
// They are all zero between two updates.
struct Histogram::Tables {
  uint32_t counts[4][2 * kBins] = {};
  uint16_t bins[kBlock + kSlack];
  size_t pending = 0;  // elements counted

  void increment(size_t counted) noexcept {
    size_t i = 0;
    for (; i + 4 <= counted; i += 4) {
      ++counts[0][bins[i]];
      ++counts[1][bins[i + 1]];
      ++counts[2][bins[i + 2]];
      ++counts[3][bins[i + 3]];
    }
    for (; i < counted; ++i) ++counts[0][bins[i]];
    pending += counted;
  }

  static Tables& of_this_thread() {
    static thread_local const std::unique_ptr<Tables> tables = std::make_unique<Tables>();
    return *tables;
  }
};

int exponent_for(uint32_t magnitude) noexcept {
  return std::max(static_cast<int>(magnitude >> 23) - 127 - 11, kMinExponent);
}

Histogram::Histogram(const char* isa) : kernels_(select(kVariants, isa)) {}

bool Histogram::update(const float* x, size_t n) {
  Tables& tables = Tables::of_this_thread();
  const std::lock_guard<std::mutex> lock(mutex_);
  bool finite = true;
  for (size_t i = 0; i < n && finite; i += kBlock) {
    finite = update_block(x + i, std::min(kBlock, n - i), tables);
  }
  flush(tables);
  return finite;
}

bool Histogram::update_block(const float* x, size_t n, Tables& tables) noexcept {
  Extremes extremes = state_.extremes;
  kernels_.scan(x, n, extremes);
  if (extremes.magnitude >= kInfinity) return false;
  const int exponent = exponent_for(extremes.magnitude);
  if (exponent > state_.exponent || tables.pending + n > kFlush) flush(tables);
  if (exponent > state_.exponent) grow(exponent);
  state_.extremes = extremes;

  const size_t counted = kernels_.bin(x, n, std::ldexp(1.0f, -exponent), tables.bins);
  state_.n_zeros += static_cast<int64_t>(n - counted);
  state_.count += static_cast<int64_t>(n);
  if (n < kFew) {
    for (size_t i = 0; i < counted; ++i) ++state_.counts[tables.bins[i]];
  } else {
    tables.increment(counted);
  }
  return true;
}

// Moves the tables' counts to the state; only the bins between minimum and maximum can have any.
void Histogram::flush(Tables& tables) noexcept {
  if (tables.pending == 0) return;
  const int low = bin_of(state_.extremes.minimum, state_.exponent) + kBins;
  const int high = bin_of(state_.extremes.maximum, state_.exponent) + kBins;
  auto& counts = tables.counts;
  for (int bin = low; bin <= high; ++bin) {
    state_.counts[bin] += counts[0][bin] + counts[1][bin] + counts[2][bin] + counts[3][bin];
  }
  for (auto& table : counts) std::fill(table + low, table + high + 1, 0u);
  tables.pending = 0;
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
  const int exponent = exponent_for(extremes.magnitude);
  if (exponent > state_.exponent) grow(exponent);
  const int shift = std::min(state_.exponent - exponent, 31);
  for (size_t i = 0; i < n; ++i) {
    state_.counts[((first + static_cast<int>(i)) >> shift) + kBins] += counts[i];
  }
  state_.n_zeros += n_zeros;
  state_.extremes.magnitude = std::max(state_.extremes.magnitude, extremes.magnitude);
  state_.extremes.minimum = std::min(state_.extremes.minimum, extremes.minimum);
  state_.extremes.maximum = std::max(state_.extremes.maximum, extremes.maximum);
  return true;
}

HistogramState Histogram::state() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

}  // namespace qtool
