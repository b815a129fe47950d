// QuantizeWide and DequantizeWide: eq. 2 and eq. 1 for any of the integer types, with a scale and a
// zero point for each slice along an axis, which may be computed at run time.
//
//   y[o][c][i] = saturate(round(x[o][c][i] / scale[c]) + zero[c])
//   y[o][c][i] = float32(x[o][c][i] - zero[c]) * scale[c]
//
// NaN becomes the zero point. A scale of 0 divides as IEEE has it.
//
// inputs   x; scale float32 (n,); zero (n,) of the integers' type, or absent for 0
// ints     outer, n, inner
#include <cmath>

#include "ops/rows.h"
#include "ops/types.h"

namespace qtool {
namespace {

// The operands that both have; floats and integers in their places.
struct Slices {
  int32_t x, scale, zero, y;
  int64_t outer, n, inner;

  explicit Slices(const OpView& op, const Tensor& integers)
      : x(op.input(0).id),
        scale(op.input(1).id),
        zero(op.has_input(2) ? op.input(2).id : -1),
        y(op.output(0).id),
        outer(op.integer(0, 1, INT32_MAX)),
        n(op.integer(1, 1, INT32_MAX)),
        inner(op.integer(2, 1, INT32_MAX)) {
    const Tensor &from = op.input(0), &to = op.output(0), &scales = op.input(1);
    op.require(from.contiguous() && to.contiguous() && from.size() == to.size(),
               "x and y do not match");
    op.require(
        to.size() % outer == 0 && to.size() / outer % n == 0 && to.size() / outer / n == inner,
        "y has another size");
    op.require(scales.dtype == DType::kFloat32 && scales.size() == n && scales.contiguous(),
               "scale has a wrong type or size");
    if (zero < 0) return;
    const Tensor& zeros = op.input(2);
    op.require(zeros.dtype == integers.dtype && zeros.size() == n && zeros.contiguous(),
               "the zero point has a wrong type or size");
  }

  // Calls body(first, last, scale, zero) for elements first .. last - 1 of a slice; T is the
  // integers' type.
  template <typename T, typename Body>
  void each(const Run& run, const Body& body) const noexcept {
    const auto part = [&](int64_t first, int64_t last, int64_t c) {
      const int32_t z = zero < 0 ? 0 : int32_t{run.at<const T>(zero)[c]};
      body(first, last, run.at<const float>(scale)[c], z);
    };
    if (outer * n == 1) {
      run.pool->split(inner, kLeastElements,
                      [&](int64_t begin, int64_t end, int) { part(begin, end, int64_t{0}); });
      return;
    }
    run.pool->split(outer * n, 1 + kLeastElements / inner, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) part(i * inner, (i + 1) * inner, i % n);
    });
  }
};

template <typename T>
class QuantizeWide final : public Op {
 public:
  explicit QuantizeWide(const OpView& op) : slices_(op, op.output(0)) {}

  void run(const Run& run) const noexcept override {
    slices_.each<T>(run, [&](int64_t first, int64_t last, float scale, int32_t zero) {
      const auto* x = run.at<const float>(slices_.x);
      T* y = run.at<T>(slices_.y);
      const auto low = float(std::numeric_limits<T>::min() - zero);
      const auto high = float(std::numeric_limits<T>::max() - zero);
      for (int64_t i = first; i < last; ++i) {
        const float any = x[i] / scale, real = any == any ? any : 0.0f;
        const float above = low < real ? real : low;
        const float inside = above < high ? above : high;
        y[i] = T(int32_t(std::lrint(inside)) + zero);
      }
    });
  }

 private:
  Slices slices_;
};

template <typename T>
class DequantizeWide final : public Op {
 public:
  explicit DequantizeWide(const OpView& op) : slices_(op, op.input(0)) {}

  void run(const Run& run) const noexcept override {
    slices_.each<T>(run, [&](int64_t first, int64_t last, float scale, int32_t zero) {
      const T* x = run.at<const T>(slices_.x);
      float* y = run.at<float>(slices_.y);
      for (int64_t i = first; i < last; ++i) {
        y[i] = float(int32_t(uint32_t(int32_t{x[i]}) - uint32_t(zero))) * scale;
      }
    });
  }

 private:
  Slices slices_;
};

template <template <typename> class Made>
std::unique_ptr<Op> make(const OpView& op, DType dtype) {
  switch (dtype) {
    case DType::kUint8:
      return std::make_unique<Made<uint8_t>>(op);
    case DType::kInt8:
      return std::make_unique<Made<int8_t>>(op);
    case DType::kUint16:
      return std::make_unique<Made<uint16_t>>(op);
    case DType::kInt16:
      return std::make_unique<Made<int16_t>>(op);
    default:
      op.require(false, "it has no such integers");
      return nullptr;
  }
}

}  // namespace

std::unique_ptr<Op> make_quantize_wide(const OpView& op) {
  op.counts(3, 1, 3, 0);
  op.require(op.input(0).dtype == DType::kFloat32, "x is not float32");
  return make<QuantizeWide>(op, op.output(0).dtype);
}

std::unique_ptr<Op> make_dequantize_wide(const OpView& op) {
  op.counts(3, 1, 3, 0);
  op.require(op.output(0).dtype == DType::kFloat32, "y is not float32");
  if (op.input(0).dtype == DType::kInt32) return std::make_unique<DequantizeWide<int32_t>>(op);
  return make<DequantizeWide>(op, op.input(0).dtype);
}

}  // namespace qtool
