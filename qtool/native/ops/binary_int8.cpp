// AddInt8: y = clamp(round((a - a_zero) * a_ratio + (b - b_zero) * b_ratio) + y_zero, low, high),
//          eq. 12; a_ratio = a_scale / y_scale, negative to subtract.
// MulInt8: y = clamp(round(float32((a - a_zero) * (b - b_zero)) * m) + y_zero, low, high), eq. 13.
//
// inputs   a, b uint8, which broadcast to y
// outputs  y uint8
// ints     a zero point, b zero point, y zero point, low, high
// floats   a_ratio, b_ratio; or m
#include "conv/epilogue.h"
#include "ops/rows.h"

namespace qtool {
namespace {

// Element for element, given a - a_zero and b - b_zero.
struct Add {
  float a_ratio, b_ratio;
  explicit Add(const OpView& op) : a_ratio(op.finite(0)), b_ratio(op.finite(1)) {}
  float operator()(int32_t a, int32_t b) const noexcept {
    const float own = float(a) * a_ratio, other = float(b) * b_ratio;
    return own + other;
  }
};

struct Mul {
  float m;
  explicit Mul(const OpView& op) : m(op.finite(0)) {}
  float operator()(int32_t a, int32_t b) const noexcept { return float(a * b) * m; }
};

template <typename Function>
class BinaryInt8 final : public Op {
 public:
  explicit BinaryInt8(const OpView& op)
      : a_(op, op.input(0), op.output(0)),
        b_(op, op.input(1), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), a_.flat() && b_.flat()),
        function_(op) {
    for (const Tensor* t : {&op.input(0), &op.input(1), &op.output(0)}) {
      op.require(t->dtype == DType::kUint8, "an operand is not uint8");
    }
    a_zero_ = int32_t(op.integer(0, 0, 255));
    b_zero_ = int32_t(op.integer(1, 0, 255));
    y_zero_ = int32_t(op.integer(2, 0, 255));
    low_ = int32_t(op.integer(3, 0, 255));
    high_ = int32_t(op.integer(4, low_, 255));
  }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const uint8_t* a = run.at<const uint8_t>(a_.id) + a_.offset(row);
      const uint8_t* b = run.at<const uint8_t>(b_.id) + b_.offset(row);
      uint8_t* y = run.at<uint8_t>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) {
        const float steps =
            function_(int32_t{a[i * a_.step]} - a_zero_, int32_t{b[i * b_.step]} - b_zero_);
        y[i] = uint8_t(saturate(steps, y_zero_, low_, high_));
      }
    });
  }

 private:
  RowsOf a_, b_;
  int32_t y_;
  RowLoop loop_;
  Function function_;
  int32_t a_zero_, b_zero_, y_zero_, low_, high_;
};

}  // namespace

std::unique_ptr<Op> make_add_int8(const OpView& op) {
  op.counts(2, 1, 5, 2);
  return std::make_unique<BinaryInt8<Add>>(op);
}

std::unique_ptr<Op> make_mul_int8(const OpView& op) {
  op.counts(2, 1, 5, 1);
  return std::make_unique<BinaryInt8<Mul>>(op);
}

}  // namespace qtool
