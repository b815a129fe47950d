// MaxPool: y = the largest x in the window, eq. 15; padding never wins. uint8 or float32.
//
// ints     of Window
#include <vector>

#include "ops/window.h"

namespace qtool {
namespace {

template <typename T>
class MaxPool final : public Op {
 public:
  explicit MaxPool(const OpView& op) : x_(op.input(0)), y_(op.output(0)), window_(op, 0, x_, y_) {}

  void run(const Run& run) const noexcept override {
    run.pool->split(y_.rows, 1 + 16384 / (y_.columns * window_.kernel[0] * window_.kernel[1]),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t pixel = begin; pixel < end; ++pixel) run_pixel(run, pixel);
                    });
  }

 private:
  void run_pixel(const Run& run, int64_t pixel) const noexcept {
    const int64_t q = pixel % y_.dims[2], p = pixel / y_.dims[2] % y_.dims[1];
    const int64_t h = x_.dims[1], w = x_.dims[2], image = pixel / y_.dims[2] / y_.dims[1] * h * w;
    const Window::Range rows = window_.range(0, p, h), columns = window_.range(1, q, w);
    T* y = run.at<T>(y_.id) + pixel * y_.pitch;
    bool first = true;
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t row = p * window_.stride[0] - window_.pad[0] + i * window_.dilation[0];
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const int64_t column = q * window_.stride[1] - window_.pad[1] + j * window_.dilation[1];
        const T* x = run.at<const T>(x_.id) + (image + row * w + column) * x_.pitch;
        if (first) {
          std::copy(x, x + y_.columns, y);
        } else {
          for (int64_t c = 0; c < y_.columns; ++c) y[c] = y[c] < x[c] ? x[c] : y[c];
        }
        first = false;
      }
    }
  }

  Tensor x_, y_;
  Window window_;
};

}  // namespace

std::unique_ptr<Op> make_max_pool(const OpView& op) {
  op.counts(1, 1, Window::kInts, 0);
  op.require(op.input(0).dtype == op.output(0).dtype, "x and y differ in type");
  if (op.input(0).dtype == DType::kUint8) return std::make_unique<MaxPool<uint8_t>>(op);
  op.require(op.input(0).dtype == DType::kFloat32, "x is neither uint8 nor float32");
  return std::make_unique<MaxPool<float>>(op);
}

}  // namespace qtool
