// Quantize:   y = clamp(round(x / scale) + zero_point, low, high), eq. 2; x float32, y uint8.
// Dequantize: y = scale * (x - zero_point), eq. 1; x uint8, y float32.
//
// ints     zero point, low, high; then 1 where x is (N, C, H, W) and y (N, H, W, C)
// floats   scale
#include "conv/epilogue.h"
#include "ops/rows.h"

namespace qtool {
namespace {

class Quantize final : public Op {
 public:
  explicit Quantize(const OpView& op)
      : x_(op, op.input(0), op.output(0)), y_(op.output(0).id), loop_(op.output(0), x_.flat()) {
    op.require(op.input(0).dtype == DType::kFloat32, "x is not float32");
    op.require(op.output(0).dtype == DType::kUint8, "y is not uint8");
    zero_point_ = int32_t(op.integer(0, 0, 255));
    low_ = int32_t(op.integer(1, 0, 255));
    high_ = int32_t(op.integer(2, low_, 255));
    scale_ = op.positive(0);
  }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const float* x = run.at<const float>(x_.id) + x_.offset(row);
      uint8_t* y = run.at<uint8_t>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) {
        y[i] = uint8_t(saturate(x[i * x_.step] / scale_, zero_point_, low_, high_));
      }
    });
  }

 private:
  RowsOf x_;
  int32_t y_;
  RowLoop loop_;
  int32_t zero_point_, low_, high_;
  float scale_;
};

// From channels first to channels last on the way.
class QuantizeImage final : public Op {
 public:
  explicit QuantizeImage(const OpView& op) : x_(op.input(0).id), y_(op.output(0)) {
    const Tensor& x = op.input(0);
    op.require(x.dtype == DType::kFloat32 && x.rank == 4 && x.contiguous(), "x is no float image");
    op.require(y_.dtype == DType::kUint8 && y_.rank == 4, "y is no uint8 image");
    op.require(x.dims[0] == y_.dims[0] && x.dims[1] == y_.dims[3] && x.dims[2] == y_.dims[1] &&
                   x.dims[3] == y_.dims[2],
               "y is not x with its channels last");
    zero_point_ = int32_t(op.integer(0, 0, 255));
    low_ = int32_t(op.integer(1, 0, 255));
    high_ = int32_t(op.integer(2, low_, 255));
    scale_ = op.positive(0);
  }

  void run(const Run& run) const noexcept override {
    const int64_t h = y_.dims[1], w = y_.dims[2], channels = y_.dims[3];
    const int64_t grain = std::max<int64_t>(1, kLeastElements / (w * channels));
    run.pool->split(y_.dims[0] * h, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t line = begin; line < end; ++line) {
        const float* x = run.at<const float>(x_) + (line / h * channels * h + line % h) * w;
        uint8_t* y = run.at<uint8_t>(y_.id) + line * w * y_.pitch;
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t i = 0; i < w; ++i) {
            const float steps = x[c * h * w + i] / scale_;
            y[i * y_.pitch + c] = uint8_t(saturate(steps, zero_point_, low_, high_));
          }
        }
      }
    });
  }

 private:
  int32_t x_;
  Tensor y_;
  int32_t zero_point_, low_, high_;
  float scale_;
};

class Dequantize final : public Op {
 public:
  explicit Dequantize(const OpView& op)
      : x_(op, op.input(0), op.output(0)), y_(op.output(0).id), loop_(op.output(0), x_.flat()) {
    op.require(op.input(0).dtype == DType::kUint8, "x is not uint8");
    op.require(op.output(0).dtype == DType::kFloat32, "y is not float32");
    zero_point_ = int32_t(op.integer(0, 0, 255));
    scale_ = op.positive(0);
  }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const uint8_t* x = run.at<const uint8_t>(x_.id) + x_.offset(row);
      float* y = run.at<float>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) {
        y[i] = float(int32_t{x[i * x_.step]} - zero_point_) * scale_;
      }
    });
  }

 private:
  RowsOf x_;
  int32_t y_;
  RowLoop loop_;
  int32_t zero_point_;
  float scale_;
};

}  // namespace

std::unique_ptr<Op> make_quantize(const OpView& op) {
  op.counts(1, 1, 4, 1);
  if (op.integer(3, 0, 1) == 1) return std::make_unique<QuantizeImage>(op);
  return std::make_unique<Quantize>(op);
}

std::unique_ptr<Op> make_dequantize(const OpView& op) {
  op.counts(1, 1, 1, 1);
  return std::make_unique<Dequantize>(op);
}

}  // namespace qtool
