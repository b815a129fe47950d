// DynamicQuantize: y = clamp(round(x / scale) + zero_point, 0, 255), with scale and zero_point of
// the range of x widened to hold 0, as ONNX DynamicQuantizeLinear has them.
//
// scale is 1 where x is all 0, and where the range is not finite. NaN does not count for the range
// and becomes the zero point.
//
// outputs  y uint8 like x; scale float32 (1,); zero_point uint8 (1,)
#include <cmath>

#include "elementwise/kernels.h"
#include "ops/rows.h"

namespace qtool {
namespace {

class DynamicQuantize final : public Op {
 public:
  explicit DynamicQuantize(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0).id),
        scale_(op.output(1).id),
        zero_(op.output(2).id),
        n_(op.input(0).size()),
        kernels_(select_elementwise(op.isa)) {
    const Tensor &x = op.input(0), &y = op.output(0);
    op.require(x.dtype == DType::kFloat32 && y.dtype == DType::kUint8, "a wrong type");
    op.require(x.contiguous() && y.contiguous() && y.size() == n_, "x and y do not match");
    op.require(op.output(1).dtype == DType::kFloat32 && op.output(1).size() == 1,
               "scale is no float32");
    op.require(op.output(2).dtype == DType::kUint8 && op.output(2).size() == 1,
               "zero_point is no uint8");
  }

  const char* kernel() const noexcept override { return isa_name(kernels_.isa); }

  void run(const Run& run) const noexcept override {
    const float* x = run.at<const float>(x_);
    const Range range = find_range(x, n_);
    const float width = range.high - range.low;
    const float scale = width > 0 && std::isfinite(width) ? width / 255 : 1;
    const float above = std::fmax(std::nearbyint(0 - range.low / scale), 0.0f);
    const auto zero = int32_t(std::fmin(above, 255.0f));
    *run.at<float>(scale_) = scale;
    *run.at<uint8_t>(zero_) = uint8_t(zero);
    run.pool->split(n_, kLeastElements, [&](int64_t begin, int64_t end, int) {
      kernels_.quantize(
          {x + begin, run.at<uint8_t>(y_) + begin, end - begin, scale, {zero, 0, 255}});
    });
  }

 private:
  struct Range {
    float low = 0, high = 0;

    void take(float x) noexcept {
      low = x < low ? x : low;
      high = high < x ? x : high;
    }
  };

  // In several parts, so that the compiler vectorises it.
  static Range find_range(const float* x, int64_t n) noexcept {
    constexpr int64_t kParts = 16;
    float low[kParts] = {}, high[kParts] = {};
    int64_t i = 0;
    for (; i + kParts <= n; i += kParts) {
      for (int64_t j = 0; j < kParts; ++j) {
        low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
        high[j] = high[j] < x[i + j] ? x[i + j] : high[j];
      }
    }
    Range range;
    for (int64_t j = 0; j < kParts; ++j) range.take(low[j]), range.take(high[j]);
    for (; i < n; ++i) range.take(x[i]);
    return range;
  }

  int32_t x_, y_, scale_, zero_;
  int64_t n_;
  const ElementwiseKernels& kernels_;
};

}  // namespace

std::unique_ptr<Op> make_dynamic_quantize(const OpView& op) {
  op.counts(1, 3, 0, 0);
  return std::make_unique<DynamicQuantize>(op);
}

}  // namespace qtool
