// MaxPool: y = the largest x in the window, eq. 15; padding never wins. uint8 or float32.
//
// ints     of Window
#include "elementwise/kernels.h"
#include "ops/rows.h"
#include "ops/taps.h"

namespace qtool {
namespace {

template <typename T>
using Largest = void (*)(const TapsArgs<T>&, T*) noexcept;

template <typename T>
class MaxPool final : public Op {
 public:
  MaxPool(const OpView& op, Largest<T> largest)
      : x_(op.input(0)),
        y_(op.output(0)),
        taps_(x_, y_, Window(op, 0, x_, y_)),
        largest_(largest),
        kernel_(isa_name(select_elementwise(op.isa).isa)) {}

  const char* kernel() const noexcept override { return kernel_; }
  size_t scratch_bytes() const noexcept override { return size_t(taps_.most()) * sizeof(int64_t); }

  void run(const Run& run) const noexcept override {
    const int64_t grain = 1 + kLeastElements / (taps_.most() * y_.columns);
    run.pool->split(y_.rows, grain, [&](int64_t begin, int64_t end, int thread) {
      auto* scratch = reinterpret_cast<int64_t*>(run.scratch + size_t(thread) * run.scratch_pitch);
      const T* x = run.at<const T>(x_.id);
      T* y = run.at<T>(y_.id);
      taps_.each(begin, end, scratch,
                 [&](int64_t pixel, int64_t base, const int64_t* offsets, int64_t n) {
                   if (n > 0) largest_({x + base, offsets, n, y_.columns}, y + pixel * y_.pitch);
                 });
    });
  }

 private:
  Tensor x_, y_;
  Taps taps_;
  Largest<T> largest_;
  const char* kernel_;
};

}  // namespace

std::unique_ptr<Op> make_max_pool(const OpView& op) {
  op.counts(1, 1, Window::kInts, 0);
  const DType dtype = op.input(0).dtype;
  op.require(dtype == op.output(0).dtype, "x and y differ in type");
  const ElementwiseKernels& kernels = select_elementwise(op.isa);
  if (dtype == DType::kUint8) return std::make_unique<MaxPool<uint8_t>>(op, kernels.max_bytes);
  op.require(dtype == DType::kFloat32, "x is neither uint8 nor float32");
  return std::make_unique<MaxPool<float>>(op, kernels.max_floats);
}

}  // namespace qtool
