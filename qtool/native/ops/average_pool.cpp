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
#include "elementwise/kernels.h"
#include "ops/rows.h"
#include "ops/taps.h"
#include "runtime/memory.h"

namespace qtool {
namespace {

class AveragePool final : public Op {
 public:
  explicit AveragePool(const OpView& op)
      : x_(op.input(0)),
        y_(op.output(0)),
        window_(op, 0, x_, y_),
        taps_(x_, y_, window_),
        kernels_(select_elementwise(op.isa)) {
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t taps = window_.padded(axis, y_.dims[axis + 1] - 1, x_.dims[axis + 1]);
      beyond_ = beyond_ || taps < window_.kernel[axis];
    }
    count_pads_ = op.integer(Window::kInts, 0, 1) == 1;
    x_zero_ = int32_t(op.integer(Window::kInts + 1, 0, 255));
    rounding_.zero_point = int32_t(op.integer(Window::kInts + 2, 0, 255));
    rounding_.low = int32_t(op.integer(Window::kInts + 3, 0, 255));
    rounding_.high = int32_t(op.integer(Window::kInts + 4, rounding_.low, 255));
    x_scale_ = op.positive(0);
    y_scale_ = op.positive(1);
    const bool integers = x_.dtype == DType::kUint8;
    op.require(integers || x_.dtype == DType::kFloat32, "x has a wrong type");
    op.require(y_.dtype == DType::kFloat32 || (integers && y_.dtype == DType::kUint8),
               "y has a wrong type");
  }

  const char* kernel() const noexcept override { return isa_name(kernels_.isa); }

  // Offsets of the taps, then a sum per channel.
  size_t scratch_bytes() const noexcept override { return sums_at() + size_t(x_.columns) * 4; }

  void run(const Run& run) const noexcept override {
    const int64_t grain = 1 + kLeastElements / (taps_.most() * y_.columns);
    run.pool->split(y_.rows, grain, [&](int64_t begin, int64_t end, int thread) {
      uint8_t* scratch = run.scratch + size_t(thread) * run.scratch_pitch;
      taps_.each(begin, end, reinterpret_cast<int64_t*>(scratch),
                 [&](int64_t pixel, int64_t base, const int64_t* offsets, int64_t n) {
                   run_pixel(run, {pixel * y_.pitch, base, offsets, n}, scratch + sums_at());
                 });
    });
  }

 private:
  size_t sums_at() const noexcept { return aligned(size_t(taps_.most()) * sizeof(int64_t)); }

  struct Pixel {
    int64_t y, x;  // where the pixel and its window begin
    const int64_t* offsets;
    int64_t n;
  };

  // With ceil_mode a window may end beyond the padding.
  int64_t padded_taps(int64_t pixel) const noexcept {
    if (!beyond_) return taps_.most();
    const int64_t q = pixel % y_.dims[2], p = pixel / y_.dims[2] % y_.dims[1];
    const int64_t n = window_.padded(0, p, x_.dims[1]) * window_.padded(1, q, x_.dims[2]);
    return std::max<int64_t>(n, 1);
  }

  void run_pixel(const Run& run, const Pixel& pixel, uint8_t* scratch) const noexcept {
    const int64_t n = pixel.n;
    const float count = float(count_pads_ ? padded_taps(pixel.y / y_.pitch) : n);
    if (x_.dtype == DType::kFloat32) {
      float* y = run.at<float>(y_.id) + pixel.y;
      kernels_.sum_floats({run.at<const float>(x_.id) + pixel.x, pixel.offsets, n, y_.columns}, y);
      for (int64_t c = 0; c < y_.columns; ++c) y[c] /= count;
      return;
    }
    auto* sums = reinterpret_cast<int32_t*>(scratch);
    kernels_.sum_bytes({run.at<const uint8_t>(x_.id) + pixel.x, pixel.offsets, n, y_.columns},
                       sums);
    const auto zero = int32_t(n * x_zero_);
    if (y_.dtype == DType::kFloat32) {
      float* y = run.at<float>(y_.id) + pixel.y;
      const float m = x_scale_ / count;
      for (int64_t c = 0; c < y_.columns; ++c) y[c] = float(sums[c] - zero) * m;
    } else {
      const float m = x_scale_ / (y_scale_ * count);
      kernels_.requantize({sums, run.at<uint8_t>(y_.id) + pixel.y, y_.columns, zero, m, rounding_});
    }
  }

  Tensor x_, y_;
  Window window_;
  Taps taps_;
  const ElementwiseKernels& kernels_;
  bool count_pads_, beyond_ = false;
  int32_t x_zero_;
  Rounding rounding_;
  float x_scale_, y_scale_;
};

}  // namespace

std::unique_ptr<Op> make_average_pool(const OpView& op) {
  op.counts(1, 1, Window::kInts + 5, 2);
  return std::make_unique<AveragePool>(op);
}

}  // namespace qtool
