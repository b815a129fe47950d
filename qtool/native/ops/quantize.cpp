// Quantize:   y = clamp(round(x / scale) + zero_point, low, high), eq. 2; x float32, y uint8.
// Dequantize: y = scale * (x - zero_point), eq. 1; x uint8, y float32.
//
// ints     of Quantize zero point, low, high, and 1 where x is (N, C, H, W) and y (N, H, W, C);
//          of Dequantize zero point
// floats   scale
#include "elementwise/kernels.h"
#include "ops/rows.h"

namespace qtool {
namespace {

Rounding read_rounding(const OpView& op) {
  Rounding r{int32_t(op.integer(0, 0, 255)), int32_t(op.integer(1, 0, 255)), 0};
  r.high = int32_t(op.integer(2, r.low, 255));
  return r;
}

// y = convert(x) element by element: convert(kernels, x, y, n).
template <typename X, typename Y, typename Convert>
class Conversion final : public Op {
 public:
  Conversion(const OpView& op, const Convert& convert)
      : x_(op.input(0)),
        y_(op.output(0).id),
        loop_(op.output(0), x_.contiguous()),
        kernels_(select_elementwise(op.isa)),
        convert_(convert) {}

  const char* kernel() const noexcept override { return isa_name(kernels_.isa); }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      convert_(kernels_, run.at<const X>(x_.id) + row * x_.pitch + begin,
               run.at<Y>(y_) + row * loop_.pitch + begin, end - begin);
    });
  }

 private:
  Tensor x_;
  int32_t y_;
  RowLoop loop_;
  const ElementwiseKernels& kernels_;
  Convert convert_;
};

template <typename X, typename Y, typename Convert>
std::unique_ptr<Op> conversion(const OpView& op, DType x, DType y, const Convert& convert) {
  op.require(op.input(0).dtype == x, "x has a wrong type");
  op.require(op.output(0).dtype == y, "y has a wrong type");
  op.require(same_dims(op.input(0), op.output(0)), "x and y differ in shape");
  return std::make_unique<Conversion<X, Y, Convert>>(op, convert);
}

// From channels first to channels last on the way.
class QuantizeImage final : public Op {
 public:
  explicit QuantizeImage(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0)),
        kernels_(select_elementwise(op.isa)),
        rounding_(read_rounding(op)),
        scale_(op.positive(0)) {
    const Tensor& x = op.input(0);
    op.require(x.dtype == DType::kFloat32 && x.rank == 4 && x.contiguous(), "x is no float image");
    op.require(y_.dtype == DType::kUint8 && y_.rank == 4, "y is no uint8 image");
    op.require(x.dims[0] == y_.dims[0] && x.dims[1] == y_.dims[3] && x.dims[2] == y_.dims[1] &&
                   x.dims[3] == y_.dims[2],
               "y is not x with its channels last");
  }

  const char* kernel() const noexcept override { return isa_name(kernels_.isa); }

  void run(const Run& run) const noexcept override {
    const int64_t pixels = int64_t{y_.dims[1]} * y_.dims[2], channels = y_.dims[3];
    const int64_t grain = 1 + kLeastElements / channels;
    for (int64_t n = 0; n < y_.dims[0]; ++n) {
      run.pool->split(pixels, grain, [&](int64_t begin, int64_t end, int) {
        kernels_.quantize_image({run.at<const float>(x_) + n * channels * pixels + begin,
                                 run.at<uint8_t>(y_.id) + (n * pixels + begin) * y_.pitch,
                                 end - begin, pixels, channels, y_.pitch, scale_, rounding_});
      });
    }
  }

 private:
  int32_t x_;
  Tensor y_;
  const ElementwiseKernels& kernels_;
  Rounding rounding_;
  float scale_;
};

}  // namespace

std::unique_ptr<Op> make_quantize(const OpView& op) {
  op.counts(1, 1, 4, 1);
  if (op.integer(3, 0, 1) == 1) return std::make_unique<QuantizeImage>(op);
  const Rounding rounding = read_rounding(op);
  const float scale = op.positive(0);
  return conversion<float, uint8_t>(
      op, DType::kFloat32, DType::kUint8,
      [=](const ElementwiseKernels& kernels, const float* x, uint8_t* y, int64_t n) {
        kernels.quantize({x, y, n, scale, rounding});
      });
}

std::unique_ptr<Op> make_dequantize(const OpView& op) {
  op.counts(1, 1, 1, 1);
  const auto zero_point = int32_t(op.integer(0, 0, 255));
  const float scale = op.positive(0);
  return conversion<uint8_t, float>(
      op, DType::kUint8, DType::kFloat32,
      [=](const ElementwiseKernels& kernels, const uint8_t* x, float* y, int64_t n) {
        kernels.dequantize({x, y, n, scale, zero_point});
      });
}

}  // namespace qtool
