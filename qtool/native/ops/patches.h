// The windows of a convolution of up to three spatial dims, as rows of a matrix.
#pragma once

#include <algorithm>

#include "runtime/op.h"

namespace qtool {

// x (n, in[0], in[1], in[2], in_c), y (n, out[0..2], out_c); weights are (out_c, kernel[0..2],
// in_c / groups).
struct Patches {
  static constexpr size_t kInts = 16;

  int64_t n, in_c, out_c, groups, x_pitch;
  int64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];

  // ints first .. first + 15: kernel, strides, dilations, pads before, pads after, groups.
  Patches(const OpView& op, size_t first, const Tensor& x, const Tensor& y) {
    constexpr int64_t kMost = 1 << 20;
    op.require(x.rank == 5 && y.rank == 5, "x and y must have five dims");
    n = x.dims[0], in_c = x.dims[4], out_c = y.dims[4], x_pitch = x.pitch;
    groups = op.integer(first + 15, 1, INT32_MAX);
    op.require(y.dims[0] == n, "batch sizes differ");
    op.require(in_c % groups == 0 && out_c % groups == 0, "groups do not divide channels");
    for (size_t i = 0; i < 3; ++i) {
      in[i] = x.dims[i + 1], out[i] = y.dims[i + 1], kernel[i] = op.integer(first + i, 1, kMost);
      stride[i] = op.integer(first + 3 + i, 1, kMost);
      dilation[i] = op.integer(first + 6 + i, 1, kMost);
      pad[i] = op.integer(first + 9 + i, 0, kMost);
      const int64_t after = op.integer(first + 12 + i, 0, kMost);
      const int64_t room = in[i] + pad[i] + after - dilation[i] * (kernel[i] - 1) - 1;
      op.require(room >= 0 && room / stride[i] + 1 == out[i],
                 "the size of y does not follow from x");
    }
    constexpr int64_t kMostDepth = int64_t{1} << 28;
    op.require(kernel[0] * kernel[1] < kMostDepth && kernel[0] * kernel[1] * kernel[2] < kMostDepth,
               "the kernel is too large");
    op.require(depth() < kMostDepth, "the kernel is too large");
  }

  int64_t pixels() const noexcept { return n * out[0] * out[1] * out[2]; }
  int64_t group_c() const noexcept { return in_c / groups; }
  int64_t depth() const noexcept { return kernel[0] * kernel[1] * kernel[2] * group_c(); }

  // Whether each pixel of y reads one pixel of x, the same one.
  bool is_pointwise() const noexcept {
    for (int i = 0; i < 3; ++i) {
      if (kernel[i] != 1 || stride[i] != 1 || in[i] != out[i]) return false;
    }
    return true;
  }

  // Calls tap(x of the pixel's first channel, or null outside) for each place of the kernel.
  template <typename T, typename Tap>
  void each_tap(const T* x, int64_t pixel, const Tap& tap) const noexcept {
    int64_t at[3];
    for (int i = 2; i >= 0; --i) {
      at[i] = pixel % out[i] * stride[i] - pad[i];
      pixel /= out[i];
    }
    const T* image = x + pixel * in[0] * in[1] * in[2] * x_pitch;
    for (int64_t i = 0; i < kernel[0]; ++i) {
      const int64_t plane = at[0] + i * dilation[0];
      for (int64_t j = 0; j < kernel[1]; ++j) {
        const int64_t row = at[1] + j * dilation[1];
        for (int64_t k = 0; k < kernel[2]; ++k) {
          const int64_t column = at[2] + k * dilation[2];
          const bool inside = plane >= 0 && plane < in[0] && row >= 0 && row < in[1] &&
                              column >= 0 && column < in[2];
          tap(inside ? image + ((plane * in[1] + row) * in[2] + column) * x_pitch : nullptr);
        }
      }
    }
  }
};

}  // namespace qtool
