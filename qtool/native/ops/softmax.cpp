// Softmax:     y = exp(x - max x) / sum of exp(x - max x) along one axis; float32.
// SoftmaxInt8: y = clamp(round(e / sum e / scale) + zero_point), e = table[max x - x], eq. 17; the
//              sum is of integers, so it has no order. uint8.
//
// inputs   x; of SoftmaxInt8 table int32 (256,), at most 2^23
// ints     the axis; of SoftmaxInt8 zero point, low, high
// floats   of SoftmaxInt8 scale of y
#include <vector>

#include "elementwise/kernels.h"
#include "ops/rows.h"

namespace qtool {
namespace {

// The lines along an axis of a dense tensor.
struct Lines {
  int64_t length, inner = 1, n;

  Lines(const OpView& op, DType dtype) {
    const Tensor &x = op.input(0), &y = op.output(0);
    op.require(x.dtype == dtype && y.dtype == dtype, "x or y has a wrong type");
    op.require(same_dims(x, y) && x.contiguous() && y.contiguous() && x.rank > 0,
               "x and y do not match");
    const auto axis = int(op.integer(0, 0, x.rank - 1));
    length = x.dims[axis];
    for (int i = axis + 1; i < x.rank; ++i) inner *= x.dims[i];
    n = x.size() / length;
  }

  int64_t start(int64_t line) const noexcept {
    return line / inner * length * inner + line % inner;
  }
};

class Softmax final : public Op {
 public:
  explicit Softmax(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0).id),
        lines_(op, DType::kFloat32),
        kernels_(select_elementwise(op.isa)) {}

  const char* kernel() const noexcept override { return isa_name(kernels_.isa); }
  size_t scratch_bytes() const noexcept override {
    return lines_.inner == 1 ? 0 : size_t(lines_.length) * sizeof(float);
  }

  void run(const Run& run) const noexcept override {
    const int64_t grain = 1 + kLeastElements / 8 / lines_.length;
    run.pool->split(lines_.n, grain, [&](int64_t begin, int64_t end, int thread) {
      auto* scratch = reinterpret_cast<float*>(run.scratch + size_t(thread) * run.scratch_pitch);
      for (int64_t line = begin; line < end; ++line) {
        const int64_t start = lines_.start(line);
        run_line(run.at<const float>(x_) + start, run.at<float>(y_) + start, scratch);
      }
    });
  }

 private:
  void run_line(const float* x, float* y, float* scratch) const noexcept {
    if (lines_.inner == 1) {
      kernels_.softmax(x, y, lines_.length);
      return;
    }
    for (int64_t i = 0; i < lines_.length; ++i) scratch[i] = x[i * lines_.inner];
    kernels_.softmax(scratch, scratch, lines_.length);
    for (int64_t i = 0; i < lines_.length; ++i) y[i * lines_.inner] = scratch[i];
  }

  int32_t x_, y_;
  Lines lines_;
  const ElementwiseKernels& kernels_;
};

class SoftmaxInt8 final : public Op {
 public:
  explicit SoftmaxInt8(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0).id),
        lines_(op, DType::kUint8),
        kernels_(select_elementwise(op.isa)),
        rounding_{int32_t(op.integer(1, 0, 255)), int32_t(op.integer(2, 0, 255)), 0},
        scale_(op.positive(0)) {
    rounding_.high = int32_t(op.integer(3, rounding_.low, 255));
    const auto* table = op.constant<int32_t>(1, DType::kInt32, 256);
    table_.assign(table, table + 256);
    for (int32_t e : table_) op.require(e >= 0 && e <= (1 << 23), "an exponential is too large");
    op.require(table_[0] > 0, "the exponential of 0 is 0");
  }

  size_t scratch_bytes() const noexcept override { return size_t(lines_.length) * 5; }

  void run(const Run& run) const noexcept override {
    const int64_t grain = 1 + kLeastElements / 8 / lines_.length;
    run.pool->split(lines_.n, grain, [&](int64_t begin, int64_t end, int thread) {
      uint8_t* scratch = run.scratch + size_t(thread) * run.scratch_pitch;
      for (int64_t line = begin; line < end; ++line) {
        const int64_t start = lines_.start(line);
        run_line(run.at<const uint8_t>(x_) + start, run.at<uint8_t>(y_) + start, scratch);
      }
    });
  }

 private:
  void run_line(const uint8_t* x, uint8_t* y, uint8_t* scratch) const noexcept {
    const int64_t n = lines_.length, inner = lines_.inner;
    auto* shares = reinterpret_cast<float*>(scratch);
    uint8_t* bytes = scratch + n * 4;
    uint8_t most = 0;
    for (int64_t i = 0; i < n; ++i) most = std::max(most, x[i * inner]);
    int64_t sum = 0;
    // uint8_t: inside the table also where another thread writes to x, as Programs may have it.
    for (int64_t i = 0; i < n; ++i) sum += table_[uint8_t(most - x[i * inner])];
    const auto total = float(sum);
    for (int64_t i = 0; i < n; ++i) shares[i] = float(table_[uint8_t(most - x[i * inner])]) / total;
    kernels_.quantize({shares, bytes, n, scale_, rounding_});
    for (int64_t i = 0; i < n; ++i) y[i * inner] = bytes[i];
  }

  int32_t x_, y_;
  Lines lines_;
  const ElementwiseKernels& kernels_;
  Rounding rounding_;
  float scale_;
  std::vector<int32_t> table_;
};

}  // namespace

std::unique_ptr<Op> make_softmax(const OpView& op) {
  op.counts(1, 1, 1, 0);
  return std::make_unique<Softmax>(op);
}

std::unique_ptr<Op> make_softmax_int8(const OpView& op) {
  op.counts(2, 1, 4, 1);
  return std::make_unique<SoftmaxInt8>(op);
}

}  // namespace qtool
