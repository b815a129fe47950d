// The loops of kernels.h, written so that the compiler vectorises them. To be included in one file
// per instruction set; everything here has internal linkage.
#pragma once

#include <cmath>
#include <cstring>

#include "elementwise/functions.h"
#include "elementwise/kernels.h"

namespace qtool {
namespace {

constexpr int64_t kBlock = 256;  // pixels that are quantized before their planes are interleaved

// Clipping before rounding changes nothing, for the bounds are integers. NaN fails both
// comparisons, and gives low.
static inline uint8_t rounded(float real, float low, float high, int32_t zero_point) {
  const float above = low < real ? real : low;
  const float inside = above < high ? above : high;
#if defined(__SSE4_1__) || defined(__aarch64__)
  return uint8_t(int32_t(__builtin_rintf(inside)) + zero_point);
#else
  return uint8_t(int32_t(std::lrint(inside)) + zero_point);
#endif
}

// The bounds before the zero point is added.
struct Bounds {
  float low, high;
  explicit Bounds(const Rounding& r)
      : low(float(r.low - r.zero_point)), high(float(r.high - r.zero_point)) {}
};

static void quantize(const QuantizeArgs& args) noexcept {
  const QuantizeArgs a = args;
  const Bounds bounds(a.rounding);
  for (int64_t i = 0; i < a.n; ++i) {
    const float real = a.x[i] / a.scale, steps = real == real ? real : 0.0f;
    a.y[i] = rounded(steps, bounds.low, bounds.high, a.rounding.zero_point);
  }
}

static inline void interleave(const uint8_t (*planes)[kBlock], int64_t n, int64_t channels,
                              uint8_t* y, int64_t pitch) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < channels; ++c) y[i * pitch + c] = planes[c][i];
  }
}

#if defined(__SSSE3__) || defined(__aarch64__)
typedef uint8_t Bytes __attribute__((vector_size(16)));

// The bytes of three planes, dense: byte i of y is that of plane i % 3 at i / 3.
static inline void interleave_three(const uint8_t (*planes)[kBlock], int64_t n, uint8_t* y) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    Bytes r, g, b;
    std::memcpy(&r, planes[0] + i, 16);
    std::memcpy(&g, planes[1] + i, 16);
    std::memcpy(&b, planes[2] + i, 16);
    const Bytes rg0 =
        __builtin_shuffle(r, g, Bytes{0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5});
    const Bytes rg1 =
        __builtin_shuffle(r, g, Bytes{21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26});
    const Bytes rg2 =
        __builtin_shuffle(r, g, Bytes{0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0});
    const Bytes y0 =
        __builtin_shuffle(rg0, b, Bytes{0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15});
    const Bytes y1 =
        __builtin_shuffle(rg1, b, Bytes{0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15});
    const Bytes y2 =
        __builtin_shuffle(rg2, b, Bytes{26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31});
    std::memcpy(y + 3 * i, &y0, 16);
    std::memcpy(y + 3 * i + 16, &y1, 16);
    std::memcpy(y + 3 * i + 32, &y2, 16);
  }
  for (; i < n; ++i) {
    for (int64_t c = 0; c < 3; ++c) y[3 * i + c] = planes[c][i];
  }
}
#else
static inline void interleave_three(const uint8_t (*planes)[kBlock], int64_t n, uint8_t* y) {
  interleave(planes, n, 3, y, 3);
}
#endif

static void quantize_image(const QuantizeImageArgs& args) noexcept {
  constexpr int64_t kPlanes = 16;
  alignas(64) uint8_t planes[kPlanes][kBlock];
  const QuantizeImageArgs a = args;
  if (a.channels == 1 && a.pitch == 1) {
    quantize({a.x, a.y, a.n, a.scale, a.rounding});
    return;
  }
  for (int64_t first = 0; first < a.n; first += kBlock) {
    const int64_t n = a.n - first < kBlock ? a.n - first : kBlock;
    for (int64_t c = 0; c < a.channels; c += kPlanes) {
      const int64_t some = a.channels - c < kPlanes ? a.channels - c : kPlanes;
      for (int64_t i = 0; i < some; ++i) {
        quantize({a.x + (c + i) * a.plane_pitch + first, planes[i], n, a.scale, a.rounding});
      }
      uint8_t* y = a.y + first * a.pitch + c;
      if (a.channels == 3 && a.pitch == 3) {
        interleave_three(planes, n, y);
      } else {
        interleave(planes, n, some, y, a.pitch);
      }
    }
  }
}

static void dequantize(const DequantizeArgs& args) noexcept {
  const DequantizeArgs a = args;
  for (int64_t i = 0; i < a.n; ++i) a.y[i] = float(int32_t{a.x[i]} - a.zero_point) * a.scale;
}

struct Add {
  float a_ratio, b_ratio;
  float operator()(int32_t a, int32_t b) const {
    const float own = float(a) * a_ratio, other = float(b) * b_ratio;
    return own + other;
  }
};

struct Mul {
  float m, unused;
  float operator()(int32_t a, int32_t b) const { return float(a * b) * m; }
};

template <typename Function, bool a_repeats, bool b_repeats>
static inline void binary(const BinaryInt8Args& args) {
  const BinaryInt8Args g = args;
  const Function f{g.a_ratio, g.b_ratio};
  const Bounds bounds(g.rounding);
  const int32_t a0 = *g.a - g.a_zero, b0 = *g.b - g.b_zero;
  for (int64_t i = 0; i < g.n; ++i) {
    const int32_t a = a_repeats ? a0 : int32_t{g.a[i]} - g.a_zero;
    const int32_t b = b_repeats ? b0 : int32_t{g.b[i]} - g.b_zero;
    g.y[i] = rounded(f(a, b), bounds.low, bounds.high, g.rounding.zero_point);
  }
}

template <typename Function>
static void binary_int8(const BinaryInt8Args& args) noexcept {
  if (args.a_repeats) {
    binary<Function, true, false>(args);
  } else if (args.b_repeats) {
    binary<Function, false, true>(args);
  } else {
    binary<Function, false, false>(args);
  }
}

#if defined(__AVX512F__)
constexpr int64_t kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kRegisterBytes = 32;
#else
constexpr int64_t kRegisterBytes = 16;
#endif

// The largest of some taps for `width` channels from c on, in one register.
template <typename T, int64_t width>
static inline void max_block(const TapsArgs<T>& taps, int64_t c, T* y) {
  typedef T Lanes __attribute__((vector_size(width * sizeof(T))));
  Lanes most, x;
  std::memcpy(&most, taps.x + taps.offsets[0] + c, sizeof most);
  for (int64_t tap = 1; tap < taps.n_taps; ++tap) {
    std::memcpy(&x, taps.x + taps.offsets[tap] + c, sizeof x);
    most = most < x ? x : most;
  }
  std::memcpy(y + c, &most, sizeof most);
}

// Blocks of a register; the last one may overlap the one before.
template <typename T>
static void max_taps(const TapsArgs<T>& taps, T* y) noexcept {
  constexpr int64_t kWide = kRegisterBytes / sizeof(T), kNarrow = 16 / sizeof(T);
  const int64_t n = taps.n;
  if (n >= kWide) {
    for (int64_t c = 0; c < n; c += kWide)
      max_block<T, kWide>(taps, c < n - kWide ? c : n - kWide, y);
  } else if (n >= kNarrow) {
    for (int64_t c = 0; c < n; c += kNarrow) {
      max_block<T, kNarrow>(taps, c < n - kNarrow ? c : n - kNarrow, y);
    }
  } else {
    for (int64_t c = 0; c < n; ++c) max_block<T, 1>(taps, c, y);
  }
}

// Four taps at a time, for fewer loads and stores of the sums.
template <typename T, typename Sum>
static void sum_taps(const TapsArgs<T>& taps, Sum* sums) noexcept {
  for (int64_t c = 0; c < taps.n; ++c) sums[c] = 0;
  int64_t tap = 0;
  for (; tap + 4 <= taps.n_taps; tap += 4) {
    const T* x[4];
    for (int64_t i = 0; i < 4; ++i) x[i] = taps.x + taps.offsets[tap + i];
    for (int64_t c = 0; c < taps.n; ++c) {
      sums[c] += (Sum(x[0][c]) + Sum(x[1][c])) + (Sum(x[2][c]) + Sum(x[3][c]));
    }
  }
  for (; tap < taps.n_taps; ++tap) {
    const T* x = taps.x + taps.offsets[tap];
    for (int64_t c = 0; c < taps.n; ++c) sums[c] += Sum(x[c]);
  }
}

static void requantize(const RequantizeArgs& args) noexcept {
  const RequantizeArgs a = args;
  const Bounds bounds(a.rounding);
  for (int64_t i = 0; i < a.n; ++i) {
    const float real = float(a.sums[i] - a.zero) * a.m;
    a.y[i] = rounded(real, bounds.low, bounds.high, a.rounding.zero_point);
  }
}

constexpr ElementwiseKernels elementwise(Isa isa) {
  return {isa,
          quantize,
          quantize_image,
          dequantize,
          binary_int8<Add>,
          binary_int8<Mul>,
          max_taps<uint8_t>,
          max_taps<float>,
          sum_taps<uint8_t, int32_t>,
          sum_taps<float, float>,
          requantize,
          function,
          softmax};
}

}  // namespace
}  // namespace qtool
