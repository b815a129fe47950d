#include "gemm_s16/product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace qtool {

WideProduct::WideProduct(Isa isa, int64_t n, int64_t k, int x_bits)
    : variant_(&select_gemm_s16(isa)),
      n_(n),
      depth_((k + 1) / 2 * 2),
      most_(int64_t{1} << (23 - x_bits)) {}  // products are at most 2^(x_bits + 7)

void WideProduct::run(const int16_t* x, int64_t m, const int8_t* w, int64_t panel,
                      int64_t (*acc)[kPanelS16]) const noexcept {
  alignas(64) int32_t part[kRows * kPanelS16];
  w += panel * panel_bytes();
  for (int64_t first = 0; first < depth_; first += most_) {
    const int64_t k = std::min(most_, depth_ - first);
    variant_->run({m, k, x + first, depth_, w + first * kPanelS16, part});
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < kPanelS16; ++j) {
        const int64_t sum = part[i * kPanelS16 + j];
        acc[i][j] = first == 0 ? sum : acc[i][j] + sum;
      }
    }
  }
}

WideEpilogue::WideEpilogue(const OpView& op, const GemmS16Variant& variant, const Tensor& y,
                           int64_t n, size_t scale, size_t ints)
    : variant_(&variant), dtype_(y.dtype), zero_(0), low_(0), high_(0) {
  if (dtype_ == DType::kInt32) {
    op.require(!op.has_input(scale), "int32 sums have no scale");
    return;
  }
  const Tensor& given = op.input(scale);
  one_ = given.size() == 1;
  if (dtype_ == DType::kFloat32 && given.kind != Kind::kConstant) {
    op.require(given.dtype == DType::kFloat32 && given.contiguous() && (one_ || given.size() == n),
               "scale has a wrong type or size");
    fed_scale_ = given.id;
    return;
  }
  const auto* values = op.constant<float>(scale, DType::kFloat32, one_ ? 1 : n);
  scale_.resize(size_t(n + kPanelS16));
  for (int64_t j = 0; j < n; ++j) scale_[size_t(j)] = values[one_ ? 0 : j];
  op.require(std::all_of(scale_.begin(), scale_.end(), [](float s) { return std::isfinite(s); }),
             "a scale is not finite");
  if (dtype_ == DType::kFloat32) return;
  int64_t low = 0, high = 255;
  if (dtype_ == DType::kUint16) high = 65535;
  if (dtype_ == DType::kInt16) low = -32768, high = 32767;
  op.require(dtype_ == DType::kUint8 || high > 255, "y has a wrong type");
  zero_ = int32_t(op.integer(ints, low, high));
  low_ = int32_t(op.integer(ints + 1, low, high));
  high_ = int32_t(op.integer(ints + 2, low_, high));
}

void WideEpilogue::store(const int64_t* acc, int64_t j, int64_t n, uint8_t* y,
                         const float* fed) const noexcept {
  if (dtype_ == DType::kInt32) {
    for (int64_t i = 0; i < n; ++i) {
      const auto wrapped = int32_t(uint32_t(uint64_t(acc[i])));
      std::memcpy(y + 4 * i, &wrapped, 4);
    }
    return;
  }
  float real[kPanelS16];
  for (int64_t i = 0; i < kPanelS16; ++i) real[i] = float(acc[i]);
  if (dtype_ == DType::kFloat32) {
    store_floats(real, j, n, y, fed);
    return;
  }
  const float* scale = scale_.data() + j;
  int32_t q[kPanelS16];
  variant_->finish({real, scale, zero_, low_, high_, q});
  store_integers(q, n, y);
}

void WideEpilogue::store_floats(float* real, int64_t j, int64_t n, uint8_t* y,
                                const float* fed) const noexcept {
  if (fed == nullptr) {
    for (int64_t i = 0; i < kPanelS16; ++i) real[i] *= scale_[size_t(j + i)];
  } else {
    for (int64_t i = 0; i < n; ++i) real[i] *= fed[one_ ? 0 : j + i];
  }
  if (!bias_.empty()) {
    for (int64_t i = 0; i < n; ++i) real[i] += bias_[size_t(j + i)];
  }
  std::memcpy(y, real, size_t(n) * sizeof(float));
}

void WideEpilogue::store_integers(const int32_t* q, int64_t n, uint8_t* y) const noexcept {
  if (dtype_ == DType::kUint8) {
    for (int64_t i = 0; i < n; ++i) y[i] = uint8_t(q[i]);
    return;
  }
  uint16_t line[kPanelS16];
  for (int64_t i = 0; i < n; ++i) line[i] = uint16_t(q[i]);
  std::memcpy(y, line, size_t(n) * sizeof(uint16_t));
}

}  // namespace qtool
