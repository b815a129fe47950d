// BinaryFloat: y = f(a, b); a, b float32, which broadcast to y.
// UnaryFloat:  y = f(x), x and y float32; alpha and beta as the function's ONNX op has them.
//
// ints     the function's number, as listed below
// floats   of UnaryFloat: alpha, beta
#include <cmath>

#include "ops/rows.h"

namespace qtool {
namespace {

enum class Binary { kAdd, kSub, kMul, kDiv, kMin, kMax, kPow, kCount };
enum class Unary { kRelu, kClip, kSigmoid, kTanh, kExp, kLog, kSqrt, kErf, kNeg, kAbs, kCount };

template <Binary f>
float apply(float a, float b) noexcept {
  switch (f) {
    case Binary::kAdd:
      return a + b;
    case Binary::kSub:
      return a - b;
    case Binary::kMul:
      return a * b;
    case Binary::kDiv:
      return a / b;
    case Binary::kMin:
      return b < a ? b : a;
    case Binary::kMax:
      return a < b ? b : a;
    case Binary::kPow:
      return std::pow(a, b);
    case Binary::kCount:
      break;
  }
  return 0;
}

template <Unary f>
float apply(float x, float alpha, float beta) noexcept {
  switch (f) {
    case Unary::kRelu:
      return x < 0 ? 0 : x;
    case Unary::kClip:
      return x < alpha ? alpha : beta < x ? beta : x;
    case Unary::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Unary::kTanh:
      return std::tanh(x);
    case Unary::kExp:
      return std::exp(x);
    case Unary::kLog:
      return std::log(x);
    case Unary::kSqrt:
      return std::sqrt(x);
    case Unary::kErf:
      return std::erf(x);
    case Unary::kNeg:
      return -x;
    case Unary::kAbs:
      return std::abs(x);
    case Unary::kCount:
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

template <Binary f>
class BinaryFloat final : public Op {
 public:
  explicit BinaryFloat(const OpView& op)
      : a_(op, op.input(0), op.output(0)),
        b_(op, op.input(1), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), a_.flat() && b_.flat()) {}

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const float* a = run.at<const float>(a_.id) + a_.offset(row);
      const float* b = run.at<const float>(b_.id) + b_.offset(row);
      float* y = run.at<float>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) y[i] = apply<f>(a[i * a_.step], b[i * b_.step]);
    });
  }

 private:
  RowsOf a_, b_;
  int32_t y_;
  RowLoop loop_;
};

template <Unary f>
class UnaryFloat final : public Op {
 public:
  explicit UnaryFloat(const OpView& op)
      : x_(op, op.input(0), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), x_.flat()),
        alpha_(op.any_float(0)),
        beta_(op.any_float(1)) {}

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const float* x = run.at<const float>(x_.id) + x_.offset(row);
      float* y = run.at<float>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) y[i] = apply<f>(x[i * x_.step], alpha_, beta_);
    });
  }

 private:
  RowsOf x_;
  int32_t y_;
  RowLoop loop_;
  float alpha_, beta_;
};

template <int f = 0>
std::unique_ptr<Op> binary(const OpView& op, int wanted) {
  if constexpr (f < int(Binary::kCount)) {
    if (wanted == f) return std::make_unique<BinaryFloat<Binary(f)>>(op);
    return binary<f + 1>(op, wanted);
  }
  return nullptr;
}

template <int f = 0>
std::unique_ptr<Op> unary(const OpView& op, int wanted) {
  if constexpr (f < int(Unary::kCount)) {
    if (wanted == f) return std::make_unique<UnaryFloat<Unary(f)>>(op);
    return unary<f + 1>(op, wanted);
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<Op> make_binary_float(const OpView& op) {
  op.counts(2, 1, 1, 0);
  require_float(op);
  return binary(op, int(op.integer(0, 0, int(Binary::kCount) - 1)));
}

std::unique_ptr<Op> make_unary_float(const OpView& op) {
  op.counts(1, 1, 1, 2);
  require_float(op);
  return unary(op, int(op.integer(0, 0, int(Unary::kCount) - 1)));
}

}  // namespace qtool
