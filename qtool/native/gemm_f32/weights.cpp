#include "gemm_f32/weights.h"

#include <algorithm>
#include <cmath>

namespace qtool {
namespace {

constexpr int64_t kRowsAtATime = 128;  // of a panel that is dequantized; a multiple of 2

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

WeightsF32::WeightsF32(const GemmF32Variant& gemm, const float* w, int64_t n, int64_t k,
                       int64_t column_step, int64_t row_step)
    : gemm_(&gemm), packed_(gemm.packed_bytes(n, k)), k_(k) {
  gemm.pack(w, n, k, column_step, row_step, reinterpret_cast<float*>(packed_.data()));
}

WeightsF32::WeightsF32(const GemmF32Variant& gemm, const Integers& w, int64_t n, int64_t k)
    : gemm_(&gemm), k_(k), block_(w.block), n_blocks_(up(k, w.block)), halves_(w.halves) {
  const int64_t panel = gemm.panel, lines = w.halves ? up(k, 2) : k;
  packed_ = Memory(size_t(gemm.padded(n) * lines));
  scales_.resize(size_t(gemm.padded(n) * n_blocks_ * 2));
  auto* to = reinterpret_cast<int8_t*>(packed_.data());
  for (int64_t j = 0; j < n; ++j) {
    int8_t* column = to + j / panel * panel * lines + j % panel;
    for (int64_t i = 0; i < lines; ++i) column[i * panel] = w.q[j * lines + i];
    float* scale = scales_.data() + j / panel * panel * n_blocks_ * 2 + j % panel;
    for (int64_t b = 0; b < n_blocks_; ++b) {
      scale[2 * b * panel] = w.scale[j * n_blocks_ + b];
      scale[(2 * b + 1) * panel] = w.zero == nullptr ? 0.0f : float(w.zero[j * n_blocks_ + b]);
    }
  }
}

void WeightsF32::run(const GemmF32Args& args, int64_t begin, int64_t end) const noexcept {
  const int64_t panel = gemm_->panel;
  GemmF32Args a = args;
  a.n = end - begin, a.y += begin;
  if (a.bias != nullptr) a.bias += begin;
  if (scales_.empty()) {
    a.w = reinterpret_cast<const float*>(packed_.data()) + begin * k_;
    gemm_->run(a);
    return;
  }
  for (int64_t column = begin; column < end; column += panel) {
    GemmF32Args one = a;
    one.n = std::min(panel, end - column), one.y += column - begin;
    if (one.bias != nullptr) one.bias += column - begin;
    run_integers(one, column / panel);
  }
}

void WeightsF32::run_integers(GemmF32Args a, int64_t which) const noexcept {
  alignas(64) float w[kRowsAtATime * kMostPanelF32];
  const int64_t panel = gemm_->panel, lines = halves_ ? (k_ + 1) / 2 : k_;
  const auto* q = reinterpret_cast<const int8_t*>(packed_.data()) + which * panel * lines;
  const float* x = a.x;
  a.w = w;
  for (int64_t first = 0; first < k_; first += a.k) {
    const int64_t block = first / block_, left = (block + 1) * block_ - first;
    a.k = std::min({kRowsAtATime, k_ - first, left});
    const float* scale = scales_.data() + (which * n_blocks_ + block) * 2 * panel;
    const int8_t* from = q + (halves_ ? first / 2 : first) * panel;
    gemm_->dequantize({from, scale + panel, scale, a.k, w, halves_});
    a.x = x + first, a.adds = first > 0;
    gemm_->run(a);
  }
}

WeightsReader::WeightsReader(const OpView& op, size_t w, size_t scale, size_t zero, size_t ints,
                             int64_t n, int64_t k)
    : n_(n), k_(k) {
  constexpr int64_t kMost = int64_t{1} << 40;
  op.require(n > 0 && k > 0 && n <= kMost / k, "the weights are too large");
  const int64_t bits = op.integer(ints, 4, 32);
  op.require(bits == 4 || bits == 8 || bits == 32, "weights have no such bits");
  integers_.block = op.integer(ints + 1, 1, INT32_MAX);
  if (bits == 32) {
    op.require(!op.has_input(scale) && !op.has_input(zero), "float weights have no scale");
    floats_ = op.constant<float>(w, DType::kFloat32, n * k);
    return;
  }
  integers_.halves = bits == 4;
  op.require(!integers_.halves || integers_.block % 2 == 0 || integers_.block >= k,
             "a block of 4-bit weights has an odd size");
  n_blocks_ = up(k, integers_.block);
  integers_.q =
      integers_.halves
          ? reinterpret_cast<const int8_t*>(op.constant<uint8_t>(w, DType::kUint8, n * up(k, 2)))
          : op.constant<int8_t>(w, DType::kInt8, n * k);
  integers_.scale = op.constant<float>(scale, DType::kFloat32, n * n_blocks_);
  if (op.has_input(zero)) {
    integers_.zero = op.constant<int8_t>(zero, DType::kInt8, n * n_blocks_);
  }
}

WeightsF32 WeightsReader::packed(const GemmF32Variant& gemm, int64_t first, int64_t n,
                                 bool rows_first) const {
  if (floats_ != nullptr) {
    return rows_first ? WeightsF32(gemm, floats_ + first, n, k_, 1, n_)
                      : WeightsF32(gemm, floats_ + first * k_, n, k_, k_, 1);
  }
  WeightsF32::Integers part = integers_;
  part.q += first * (part.halves ? up(k_, 2) : k_);
  part.scale += first * n_blocks_;
  if (part.zero != nullptr) part.zero += first * n_blocks_;
  return WeightsF32(gemm, part, n, k_);
}

}  // namespace qtool
