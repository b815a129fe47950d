// AveragePool: the mean of the window, without the padding unless it counts; eq. 14.
//
//   x uint8, y uint8:    y = clamp(round(acc * (x_scale / (y_scale * count))) + y_zero, low, high)
//   x uint8, y float32:  y = acc * (x_scale / count)
//   x float32:           y = sum / count
//
// with acc = float32(sum of (x - x_zero)). Global pools and ReduceMean have one window.
//
// ints     of Window, 1 where padding counts, x zero point, y zero point, low, high
// floats   x_scale, y_scale
#include <vector>

#include "conv/epilogue.h"
#include "ops/window.h"

namespace qtool {
namespace {

class AveragePool final : public Op {
 public:
  explicit AveragePool(const OpView& op)
      : x_(op.input(0)), y_(op.output(0)), window_(op, 0, x_, y_) {
    count_pads_ = op.integer(Window::kInts, 0, 1) == 1;
    x_zero_ = int32_t(op.integer(Window::kInts + 1, 0, 255));
    y_zero_ = int32_t(op.integer(Window::kInts + 2, 0, 255));
    low_ = int32_t(op.integer(Window::kInts + 3, 0, 255));
    high_ = int32_t(op.integer(Window::kInts + 4, low_, 255));
    x_scale_ = op.positive(0);
    y_scale_ = op.positive(1);
    const bool integers = x_.dtype == DType::kUint8;
    op.require(integers || x_.dtype == DType::kFloat32, "x has a wrong type");
    op.require(y_.dtype == DType::kFloat32 || (integers && y_.dtype == DType::kUint8),
               "y has a wrong type");
  }

  size_t scratch_bytes() const noexcept override { return size_t(x_.columns) * 4; }

  void run(const Run& run) const noexcept override {
    const int64_t taps = int64_t{window_.kernel[0]} * window_.kernel[1] * y_.columns;
    run.pool->split(y_.rows, 1 + 16384 / taps, [&](int64_t begin, int64_t end, int thread) {
      uint8_t* scratch = run.scratch + size_t(thread) * run.scratch_pitch;
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        if (x_.dtype == DType::kUint8) {
          finish(run, pixel, sum<uint8_t>(run, pixel, reinterpret_cast<int32_t*>(scratch)),
                 reinterpret_cast<const int32_t*>(scratch));
        } else {
          finish(run, pixel, sum<float>(run, pixel, reinterpret_cast<float*>(scratch)),
                 reinterpret_cast<const float*>(scratch));
        }
      }
    });
  }

 private:
  // Fills sums with the sum per channel, and returns how many elements count.
  template <typename T, typename Sum>
  int64_t sum(const Run& run, int64_t pixel, Sum* sums) const noexcept {
    const int64_t q = pixel % y_.dims[2], p = pixel / y_.dims[2] % y_.dims[1];
    const int64_t h = x_.dims[1], w = x_.dims[2], image = pixel / y_.dims[2] / y_.dims[1] * h * w;
    const Window::Range rows = window_.range(0, p, h), columns = window_.range(1, q, w);
    std::fill(sums, sums + x_.columns, Sum{0});
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t row = p * window_.stride[0] - window_.pad[0] + i * window_.dilation[0];
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const int64_t column = q * window_.stride[1] - window_.pad[1] + j * window_.dilation[1];
        const T* x = run.at<const T>(x_.id) + (image + row * w + column) * x_.pitch;
        for (int64_t c = 0; c < x_.columns; ++c) sums[c] += Sum(x[c]);
      }
    }
    return (rows.end - rows.begin) * (columns.end - columns.begin);
  }

  int64_t counted(int64_t taps) const noexcept {
    return count_pads_ ? int64_t{window_.kernel[0]} * window_.kernel[1] : taps;
  }

  void finish(const Run& run, int64_t pixel, int64_t taps, const int32_t* sums) const noexcept {
    const float count = float(counted(taps));
    const auto zero = int32_t(taps * x_zero_);
    if (y_.dtype == DType::kFloat32) {
      float* y = run.at<float>(y_.id) + pixel * y_.pitch;
      const float m = x_scale_ / count;
      for (int64_t c = 0; c < y_.columns; ++c) y[c] = float(sums[c] - zero) * m;
      return;
    }
    uint8_t* y = run.at<uint8_t>(y_.id) + pixel * y_.pitch;
    const float m = x_scale_ / (y_scale_ * count);
    for (int64_t c = 0; c < y_.columns; ++c) {
      y[c] = uint8_t(saturate(float(sums[c] - zero) * m, y_zero_, low_, high_));
    }
  }

  void finish(const Run& run, int64_t pixel, int64_t taps, const float* sums) const noexcept {
    float* y = run.at<float>(y_.id) + pixel * y_.pitch;
    const float count = float(counted(taps));
    for (int64_t c = 0; c < y_.columns; ++c) y[c] = sums[c] / count;
  }

  Tensor x_, y_;
  Window window_;
  bool count_pads_;
  int32_t x_zero_, y_zero_, low_, high_;
  float x_scale_, y_scale_;
};

}  // namespace

std::unique_ptr<Op> make_average_pool(const OpView& op) {
  op.counts(1, 1, Window::kInts + 5, 2);
  return std::make_unique<AveragePool>(op);
}

}  // namespace qtool
