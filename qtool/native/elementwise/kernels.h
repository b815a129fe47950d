// Loops over dense runs of elements: quantizing, integer sums and products, and what pools reduce.
// loops.h defines them once; each instruction set compiles that for itself.
#pragma once

#include <cstdint>

#include "isa.h"

namespace qtool {

// y = clamp(round(real) + zero_point, low, high): the end of every integer op.
struct Rounding {
  int32_t zero_point, low, high;
};

struct QuantizeArgs {
  const float* x;  // (n,)
  uint8_t* y;      // (n,) = x / scale, rounded; NaN counts as 0
  int64_t n;
  float scale;
  Rounding rounding;
};

// Images of `channels` planes of n elements, plane_pitch apart; y (n, channels) has pixels pitch
// apart.
struct QuantizeImageArgs {
  const float* x;
  uint8_t* y;
  int64_t n, plane_pitch, channels, pitch;
  float scale;
  Rounding rounding;
};

struct DequantizeArgs {
  const uint8_t* x;  // (n,)
  float* y;          // (n,) = (x - zero_point) * scale
  int64_t n;
  float scale;
  int32_t zero_point;
};

// Add: y = (a - a_zero) * a_ratio + (b - b_zero) * b_ratio, rounded
// Mul: y = float32((a - a_zero) * (b - b_zero)) * a_ratio, rounded
struct BinaryInt8Args {
  const uint8_t *a, *b;  // (n,), or one element that repeats
  uint8_t* y;            // (n,)
  int64_t n;
  bool a_repeats, b_repeats;
  int32_t a_zero, b_zero;
  float a_ratio, b_ratio;
  Rounding rounding;
};

// The taps of a window: x + offsets[i], each with n channels.
template <typename T>
struct TapsArgs {
  const T* x;
  const int64_t* offsets;
  int64_t n_taps, n;
};

// y = float32(sums - zero) * m, rounded
struct RequantizeArgs {
  const int32_t* sums;  // (n,)
  uint8_t* y;           // (n,)
  int64_t n;
  int32_t zero;
  float m;
  Rounding rounding;
};

// Numbers that Programs store: never reused. alpha and beta are as in the ONNX op of the name.
enum class FloatFunction {
  kRelu,
  kClip,
  kSigmoid,
  kTanh,
  kExp,
  kLog,
  kSqrt,
  kErf,
  kNeg,
  kAbs,
  kLeakyRelu,
  kElu,
  kHardSigmoid,
  kHardSwish,
  kGelu,
  kGeluTanh,
  kSilu,
  kSoftplus,
  kSoftsign,
  kReciprocal,
  kFloor,
  kCeil,
  kRound,
  kSign,
  kSin,
  kCos,
  kMish,
  kSelu,
  kCelu,
  kThresholdedRelu,
  kTan,
  kSwish,
  kCount,
};

struct FloatFunctionArgs {
  const float* x;  // (n,)
  float* y;        // (n,) = f(x)
  int64_t n;
  float alpha, beta;
};

struct ElementwiseKernels {
  Isa isa;
  void (*quantize)(const QuantizeArgs&) noexcept;
  void (*quantize_image)(const QuantizeImageArgs&) noexcept;
  void (*dequantize)(const DequantizeArgs&) noexcept;
  void (*add)(const BinaryInt8Args&) noexcept;
  void (*mul)(const BinaryInt8Args&) noexcept;
  void (*max_bytes)(const TapsArgs<uint8_t>&, uint8_t* y) noexcept;
  void (*max_floats)(const TapsArgs<float>&, float* y) noexcept;
  void (*sum_bytes)(const TapsArgs<uint8_t>&, int32_t* sums) noexcept;
  void (*sum_floats)(const TapsArgs<float>&, float* sums) noexcept;
  void (*requantize)(const RequantizeArgs&) noexcept;
  void (*(*function)(FloatFunction) noexcept)(const FloatFunctionArgs&) noexcept;
  void (*softmax)(const float* x, float* y, int64_t n) noexcept;
};

#define QTOOL_ELEMENTWISE(isa, name) extern const ElementwiseKernels name;
#include "elementwise/kernels.inc"
#undef QTOOL_ELEMENTWISE

// The first of kernels.inc that may run at isa and below.
const ElementwiseKernels& select_elementwise(Isa isa);

}  // namespace qtool
