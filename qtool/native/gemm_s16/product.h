// Wide products of a few rows at a time, and what becomes of their sums.
//
//   acc[i][j] = sum over k of x[i][k] * w[j][k]           int64
//   y = saturate(round(float32(acc) * scale[j]) + zero)   uint8, uint16, int16
//   y = float32(acc) * scale[j]                           float32
//   y = acc, wrapped                                      int32
#pragma once

#include <vector>

#include "gemm_s16/gemm_s16.h"
#include "runtime/op.h"

namespace qtool {

// n columns of depth k; x elements are below 2^x_bits in size, so that pairs of products can be
// added in int32 for a while.
class WideProduct {
 public:
  static constexpr int64_t kRows = 32;  // at a time

  WideProduct(Isa isa, int64_t n, int64_t k, int x_bits);

  const GemmS16Variant& variant() const noexcept { return *variant_; }
  int64_t panels() const noexcept { return (n_ + kPanelS16 - 1) / kPanelS16; }
  int64_t row_pitch() const noexcept { return depth_; }  // of x; what is beyond k must be 0
  size_t packed_bytes() const noexcept { return size_t(panels() * panel_bytes()); }

  // Where the element of column j and depth i lies in the packed w.
  int64_t place(int64_t j, int64_t i) const noexcept {
    return j / kPanelS16 * panel_bytes() + (i / 2 * kPanelS16 + j % kPanelS16) * 2 + i % 2;
  }

  // The sums of m <= kRows rows of x and one panel of w.
  void run(const int16_t* x, int64_t m, const int8_t* w, int64_t panel,
           int64_t (*acc)[kPanelS16]) const noexcept;

 private:
  int64_t panel_bytes() const noexcept { return depth_ * kPanelS16; }

  const GemmS16Variant* variant_;
  int64_t n_, depth_, most_;
};

// ints at, at + 1, at + 2: zero point, low, high of y. Input `scale` is float32 (n,) or (1,),
// absent where y is int32; constant unless y is float32.
class WideEpilogue {
 public:
  WideEpilogue(const OpView& op, const GemmS16Variant& variant, const Tensor& y, int64_t n,
               size_t scale, size_t ints);

  // What float results are added to, (n,), after the scale.
  void add(const float* bias, int64_t n) { bias_.assign(bias, bias + n); }

  // The scale of this run, null where it is constant.
  const float* scale(const Run& run) const noexcept {
    return fed_scale_ < 0 ? nullptr : run.at<const float>(fed_scale_);
  }

  // Columns j .. j + n - 1 of a row, n <= kPanelS16; y at column j.
  void store(const int64_t* acc, int64_t j, int64_t n, uint8_t* y,
             const float* scale = nullptr) const noexcept;

 private:
  void store_floats(float* real, int64_t j, int64_t n, uint8_t* y,
                    const float* scale) const noexcept;
  void store_integers(const int32_t* q, int64_t n, uint8_t* y) const noexcept;

  const GemmS16Variant* variant_;
  DType dtype_;
  int32_t zero_, low_, high_;
  std::vector<float> scale_;  // and a panel of zeros
  std::vector<float> bias_;
  int32_t fed_scale_ = -1;
  bool one_ = false;  // scale for all columns
};

}  // namespace qtool
