// Functions of float32, for the compiler to vectorise; included as loops.h is. Each is within a few
// units in the last place of the exact one, NaN stays NaN, and the result is the same wherever in
// an array an element lies.
#pragma once

#include <cmath>
#include <cstring>

#include "elementwise/kernels.h"

namespace qtool {
namespace {

static inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

static inline uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Adding and taking away 1.5 * 2^23 rounds to a whole number, which is in the low bits meanwhile.
constexpr float kRound = 12582912.0f;

// 2^n e^r with x = n ln 2 + r, |r| <= ln 2 / 2; the polynomial is that of Cephes' expf. Below -87.3
// it is 0: no subnormal numbers.
static inline float exp_of(float x) {
  const float above = x > -87.33654f ? x : -87.33654f;
  const float inside = above < 88.72283f ? above : 88.72283f;
  const float shifted = inside * 1.44269504088896341f + kRound, n = shifted - kRound;
  const float r = (inside - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * (r * r) + r + 1.0f;
  // In two factors, for n reaches 128.
  const uint32_t whole = to_bits(shifted) - to_bits(kRound), half = uint32_t(int32_t(whole) >> 1);
  const float a = from_bits((half + 127u) << 23), b = from_bits((whole - half + 127u) << 23);
  const float normal = y * a * b;
  const float small = x < -87.33654f ? 0.0f : normal;
  const float large = x > 88.72283f ? from_bits(0x7f800000u) : small;
  return x == x ? large : x;
}

static inline float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }

// x + x^3 P(x^2) near 0, else 1 - 2 / (e^2|x| + 1), as Cephes' tanhf.
static inline float tanh_of(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  const float near = p * z * x + x;
  const float size = std::fabs(x);
  const float far = 1.0f - 2.0f / (exp_of(2.0f * size) + 1.0f);
  return size < 0.625f ? near : std::copysign(far, x);
}

// Minimax polynomials below and above 0.9277, by N. Juffa.
static inline float erf_of(float x) {
  const float size = std::fabs(x), s = x * x;
  float far = -1.72853470e-5f * size + 3.83197126e-4f;
  far = far * s + (-3.88396438e-3f * size + 2.42546219e-2f);
  far = far * size + -1.06777877e-1f;
  far = far * size + -6.34846687e-1f;
  far = far * size + -1.28717512e-1f;
  far = 1.0f - exp_of(far * size - size);
  float near = -5.96761703e-4f;
  near = near * s + 4.99119423e-3f;
  near = near * s + -2.67681349e-2f;
  near = near * s + 1.12819925e-1f;
  near = near * s + -3.76125336e-1f;
  near = near * s + 1.28379166e-1f;
  near = near * x + x;
  return size > 0.927734375f ? std::copysign(far, x) : near;
}

static inline float gelu_of(float x) {
  return 0.5f * x * (1.0f + erf_of(x * 0.70710678118654752f));
}

static inline float gelu_tanh_of(float x) {
  return 0.5f * x * (1.0f + tanh_of(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

// x tanh(log(1 + e^x)) = x w / (w + 2), with w = e^x (e^x + 2)
static inline float mish_of(float x) {
  const float e = exp_of(x > 20 ? 20 : x), w = e * (e + 2);
  return x * (w / (w + 2));
}

static inline float clipped(float x, float low, float high) {
  const float above = x < low ? low : x;
  return high < above ? high : above;
}

template <FloatFunction f>
static inline float apply(float x, float alpha, float beta) {
  switch (f) {
    case FloatFunction::kRelu:
      return x < 0 ? 0 : x;
    case FloatFunction::kClip:
      return clipped(x, alpha, beta);
    case FloatFunction::kSigmoid:
      return sigmoid_of(x);
    case FloatFunction::kTanh:
      return tanh_of(x);
    case FloatFunction::kExp:
      return exp_of(x);
    case FloatFunction::kLog:
      return std::log(x);
    case FloatFunction::kSqrt:
      return std::sqrt(x);
    case FloatFunction::kErf:
      return erf_of(x);
    case FloatFunction::kNeg:
      return -x;
    case FloatFunction::kAbs:
      return std::fabs(x);
    case FloatFunction::kLeakyRelu:
      return x < 0 ? x * alpha : x;
    case FloatFunction::kElu:
      return x < 0 ? alpha * (exp_of(x) - 1) : x;
    case FloatFunction::kHardSigmoid:
      return clipped(alpha * x + beta, 0, 1);
    case FloatFunction::kHardSwish:
      return x * clipped(x * (1.0f / 6) + 0.5f, 0, 1);
    case FloatFunction::kGelu:
      return gelu_of(x);
    case FloatFunction::kGeluTanh:
      return gelu_tanh_of(x);
    case FloatFunction::kSilu:
      return x * sigmoid_of(x);
    case FloatFunction::kSoftplus:
      return (x > 0 ? x : 0) + std::log1p(exp_of(-std::fabs(x)));
    case FloatFunction::kSoftsign:
      return x / (1 + std::fabs(x));
    case FloatFunction::kReciprocal:
      return 1 / x;
    case FloatFunction::kFloor:
      return std::floor(x);
    case FloatFunction::kCeil:
      return std::ceil(x);
    case FloatFunction::kRound:
      return std::nearbyint(x);
    case FloatFunction::kSign:
      return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
    case FloatFunction::kSin:
      return std::sin(x);
    case FloatFunction::kCos:
      return std::cos(x);
    case FloatFunction::kMish:
      return mish_of(x);
    case FloatFunction::kSelu:
      return beta * (x > 0 ? x : alpha * (exp_of(x) - 1));
    case FloatFunction::kCelu:
      return x > 0 ? x : alpha * (exp_of(x / alpha) - 1);
    case FloatFunction::kThresholdedRelu:
      return x > alpha ? x : 0;
    case FloatFunction::kTan:
      return std::tan(x);
    case FloatFunction::kSwish:
      return x * sigmoid_of(alpha * x);
    case FloatFunction::kCount:
      break;
  }
  return 0;
}

template <FloatFunction f>
static void each(const FloatFunctionArgs& args) noexcept {
  const FloatFunctionArgs a = args;
  for (int64_t i = 0; i < a.n; ++i) a.y[i] = apply<f>(a.x[i], a.alpha, a.beta);
}

template <int f = 0>
static void (*function(FloatFunction wanted) noexcept)(const FloatFunctionArgs&) noexcept {
  if constexpr (f < int(FloatFunction::kCount)) {
    if (int(wanted) == f) return each<FloatFunction(f)>;
    return function<f + 1>(wanted);
  }
  return nullptr;
}

static void softmax(const float* x, float* y, int64_t n) noexcept {
  float most = x[0];
  for (int64_t i = 1; i < n; ++i) most = most < x[i] ? x[i] : most;
  for (int64_t i = 0; i < n; ++i) y[i] = exp_of(x[i] - most);
  constexpr int64_t kParts = 16;
  float parts[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= n; i += kParts) {
    for (int64_t k = 0; k < kParts; ++k) parts[k] += y[i + k];
  }
  float sum = 0;
  for (; i < n; ++i) sum += y[i];
  for (float part : parts) sum += part;
  const float scale = 1 / sum;
  for (i = 0; i < n; ++i) y[i] *= scale;
}

}  // namespace
}  // namespace qtool
