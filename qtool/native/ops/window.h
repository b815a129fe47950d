// The windows of a pooling op over an image.
#pragma once

#include <algorithm>

#include "runtime/op.h"

namespace qtool {

// ints first .. first + 9: kernel h w, stride h w, dilation h w, pads top left bottom right.
// A window may begin in the padding and end beyond it (ceil_mode); one element at least is x's.
struct Window {
  static constexpr size_t kInts = 10;

  int32_t kernel[2], stride[2], dilation[2], pad[2], after[2];

  Window(const OpView& op, size_t first, const Tensor& x, const Tensor& y) {
    constexpr int64_t kMost = 1 << 20;
    op.require(x.rank == 4 && y.rank == 4, "x or y is no image");
    op.require(x.dims[0] == y.dims[0] && x.dims[3] == y.dims[3], "x and y do not match");
    for (size_t i = 0; i < 2; ++i) {
      kernel[i] = int32_t(op.integer(first + i, 1, kMost));
      stride[i] = int32_t(op.integer(first + 2 + i, 1, kMost));
      dilation[i] = int32_t(op.integer(first + 4 + i, 1, kMost));
      pad[i] = int32_t(op.integer(first + 6 + i, 0, kMost));
      after[i] = int32_t(op.integer(first + 8 + i, 0, kMost));
      // Between the ends a dilated window may still miss x; that gives nonsense, but no harm.
      for (int64_t at : {int64_t{0}, int64_t{y.dims[i + 1]} - 1}) {
        const Range taps = range(int(i), at, x.dims[i + 1]);
        op.require(taps.begin < taps.end, "a window holds nothing of x");
      }
    }
    op.require(int64_t{kernel[0]} * kernel[1] < (1 << 23), "a window is too large");
  }

  struct Range {
    int64_t begin, end;  // taps of the kernel
  };

  // How many taps of the window at output `at` lie inside the axis and its padding.
  int64_t padded(int axis, int64_t at, int64_t size) const noexcept {
    const int64_t end = size + after[axis] - (at * stride[axis] - pad[axis]), d = dilation[axis];
    return end <= 0 ? 0 : std::min<int64_t>((end + d - 1) / d, kernel[axis]);
  }

  // Which taps of the window at output `at` of an axis lie inside 0 .. size - 1.
  Range range(int axis, int64_t at, int64_t size) const noexcept {
    const int64_t start = at * stride[axis] - pad[axis], d = dilation[axis];
    const int64_t begin = start < 0 ? (-start + d - 1) / d : 0;
    const int64_t end = size > start ? (size - start + d - 1) / d : 0;
    return {begin, std::min<int64_t>(end, kernel[axis])};
  }
};

}  // namespace qtool
