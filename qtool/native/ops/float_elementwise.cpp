// BinaryFloat: y = f(a, b); a, b float32, which broadcast to y.
// UnaryFloat:  y = f(x), x and y float32; alpha and beta as the function's ONNX op has them.
//
// ints     the function's number: below, or in elementwise/kernels.h
// floats   of UnaryFloat: alpha, beta
#include <cmath>

#include "elementwise/kernels.h"
#include "ops/rows.h"

namespace qtool {
namespace {

enum class Function { kAdd, kSub, kMul, kDiv, kMin, kMax, kPow, kPRelu, kCount };

template <Function f>
float apply(float a, float b) noexcept {
  switch (f) {
    case Function::kAdd:
      return a + b;
    case Function::kSub:
      return a - b;
    case Function::kMul:
      return a * b;
    case Function::kDiv:
      return a / b;
    case Function::kMin:
      return b < a ? b : a;
    case Function::kMax:
      return a < b ? b : a;
    case Function::kPow:
      return b == 2 ? a * a : std::pow(a, b);
    case Function::kPRelu:
      return a < 0 ? a * b : a;
    case Function::kCount:
      break;
  }
  return 0;
}

void require_float(const OpView& op) {
  for (size_t i = 0; i < op.n_inputs(); ++i) {
    op.require(op.input(i).dtype == DType::kFloat32, "an operand is not float32");
  }
  op.require(op.output(0).dtype == DType::kFloat32, "y is not float32");
}

template <Function f>
class BinaryFloat final : public Op {
 public:
  explicit BinaryFloat(const OpView& op)
      : a_(op, op.input(0), op.output(0)),
        b_(op, op.input(1), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), a_.flat() && b_.flat()) {}

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const float* a = run.at<const float>(a_.id) + a_.offset(row) + begin * a_.step;
      const float* b = run.at<const float>(b_.id) + b_.offset(row) + begin * b_.step;
      float* y = run.at<float>(y_) + row * loop_.pitch + begin;
      const int64_t n = end - begin;
      if (a_.step == 0 && b_.step == 0) {
        for (int64_t i = 0; i < n; ++i) y[i] = apply<f>(*a, *b);
      } else if (a_.step == 0) {
        for (int64_t i = 0; i < n; ++i) y[i] = apply<f>(*a, b[i]);
      } else if (b_.step == 0) {
        for (int64_t i = 0; i < n; ++i) y[i] = apply<f>(a[i], *b);
      } else {
        for (int64_t i = 0; i < n; ++i) y[i] = apply<f>(a[i], b[i]);
      }
    });
  }

 private:
  RowsOf a_, b_;
  int32_t y_;
  RowLoop loop_;
};

class UnaryFloat final : public Op {
 public:
  explicit UnaryFloat(const OpView& op)
      : x_(op.input(0)),
        y_(op.output(0).id),
        loop_(op.output(0), x_.contiguous()),
        kernels_(select_elementwise(op.isa)),
        alpha_(op.any_float(0)),
        beta_(op.any_float(1)) {
    op.require(same_dims(x_, op.output(0)), "x and y differ in shape");
    const auto f = FloatFunction(op.integer(0, 0, int64_t(FloatFunction::kCount) - 1));
    function_ = kernels_.function(f);
  }

  const char* kernel() const noexcept override { return isa_name(kernels_.isa); }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      function_({run.at<const float>(x_.id) + row * x_.pitch + begin,
                 run.at<float>(y_) + row * loop_.pitch + begin, end - begin, alpha_, beta_});
    });
  }

 private:
  Tensor x_;
  int32_t y_;
  RowLoop loop_;
  const ElementwiseKernels& kernels_;
  void (*function_)(const FloatFunctionArgs&) noexcept;
  float alpha_, beta_;
};

template <int f = 0>
std::unique_ptr<Op> binary(const OpView& op, int wanted) {
  if constexpr (f < int(Function::kCount)) {
    if (wanted == f) return std::make_unique<BinaryFloat<Function(f)>>(op);
    return binary<f + 1>(op, wanted);
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<Op> make_binary_float(const OpView& op) {
  op.counts(2, 1, 1, 0);
  require_float(op);
  return binary(op, int(op.integer(0, 0, int(Function::kCount) - 1)));
}

std::unique_ptr<Op> make_unary_float(const OpView& op) {
  op.counts(1, 1, 1, 2);
  require_float(op);
  return std::make_unique<UnaryFloat>(op);
}

}  // namespace qtool
