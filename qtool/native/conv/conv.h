// acc[n][p][q][o] = bias[o] + sum over i, j, k of w[o][i][j][k] *
//     x[n][p * stride_h + i * dilation_h - pad_top][q * stride_w + j * dilation_w - pad_left][g * K
//     + k]
//
// with K = in_c / groups, g the group of o, and x = x_zero_point outside the image. The zero point
// is folded into bias (eq. 3 of docs/quantization.md), so x and w are multiplied as they are. A
// matrix product is a 1x1 convolution of an image of one row. All arithmetic of acc wraps in int32.
// What becomes of acc: epilogue.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/epilogue.h"
#include "isa.h"

namespace qtool {

struct ConvArgs {
  int32_t n, in_h, in_w, in_c;  // x (n, in_h, in_w, in_c), uint8
  int32_t out_h, out_w, out_c;  // y (n, out_h, out_w, out_c), uint8 or float32
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  int32_t pad_top, pad_left;  // those at the other ends follow
  int32_t groups;
  int64_t x_pitch, y_pitch, residual_pitch;  // elements between pixels, >= channels
  int32_t x_zero_point;
  const int8_t* w;  // (out_c, kernel_h, kernel_w, in_c / groups); gone after pack
  Epilogue epilogue;
  int threads;  // how many parts run() will be called for at the same time, at most

  int64_t pixels() const noexcept { return int64_t{n} * out_h * out_w; }
  int32_t depth() const noexcept { return kernel_h * kernel_w * (in_c / groups); }
};

// One call. x may be read up to kSlack bytes beyond its end, y not written beyond its channels.
struct ConvCall {
  const ConvArgs* args;
  const uint8_t* packed;  // what pack() wrote
  const uint8_t* x;
  const uint8_t* residual;  // (n, out_h, out_w, out_c), null when there is none
  void* y;
  uint8_t* scratch;  // of this thread, scratch_bytes(), aligned to 64
  int64_t* held;     // the block of x whose copy scratch holds, -1 at first; or null
};

// A way to compute it. Work is units() equal parts, of pixels or channels as it likes, that
// threads share; any split gives the same bytes.
struct ConvVariant {
  const char* name;  // conv_<what>_<tile>__<isa>
  Isa isa;
  bool (*available)() noexcept;  // beyond isa, whether this machine has what it needs
  bool (*supports)(const ConvArgs&) noexcept;
  size_t (*packed_bytes)(const ConvArgs&) noexcept;
  void (*pack)(const ConvArgs&, uint8_t* packed) noexcept;  // packed is aligned to 64, all 0
  size_t (*scratch_bytes)(const ConvArgs&) noexcept;        // per thread
  int64_t (*units)(const ConvArgs&) noexcept;
  double (*cycles)(const ConvArgs&) noexcept;  // an estimate, of one thread
  void (*run)(const ConvCall&, int64_t begin, int64_t end) noexcept;
};

#define QTOOL_CONV(name) extern const ConvVariant name;
#include "conv/kernels.inc"
#undef QTOOL_CONV

// Of the variants that may run at isa and below and support the arguments, the one that should
// take the fewest cycles.
const ConvVariant& select_conv(const ConvArgs& args, Isa isa);

// All variants of kernels.inc; n_conv_variants() of them.
const ConvVariant* const* conv_variants() noexcept;
int n_conv_variants() noexcept;

}  // namespace qtool
