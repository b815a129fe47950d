// AddInt8: y = clamp(round((a - a_zero) * a_ratio + (b - b_zero) * b_ratio) + y_zero, low, high),
//          eq. 12; a_ratio = a_scale / y_scale, negative to subtract.
// MulInt8: y = clamp(round(float32((a - a_zero) * (b - b_zero)) * m) + y_zero, low, high), eq. 13.
//
// inputs   a, b uint8, which broadcast to y
// outputs  y uint8
// ints     a zero point, b zero point, y zero point, low, high
// floats   a_ratio, b_ratio; or m
#include "elementwise/kernels.h"
#include "ops/rows.h"

namespace qtool {
namespace {

class BinaryInt8 final : public Op {
 public:
  using Kernel = void (*)(const BinaryInt8Args&) noexcept;

  BinaryInt8(const OpView& op, const ElementwiseKernels& kernels, bool adds)
      : a_(op, op.input(0), op.output(0)),
        b_(op, op.input(1), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), a_.flat() && b_.flat()),
        kernel_(adds ? kernels.add : kernels.mul),
        isa_(kernels.isa),
        args_{} {
    for (const Tensor* t : {&op.input(0), &op.input(1), &op.output(0)}) {
      op.require(t->dtype == DType::kUint8, "an operand is not uint8");
    }
    args_.a_zero = int32_t(op.integer(0, 0, 255));
    args_.b_zero = int32_t(op.integer(1, 0, 255));
    args_.rounding.zero_point = int32_t(op.integer(2, 0, 255));
    args_.rounding.low = int32_t(op.integer(3, 0, 255));
    args_.rounding.high = int32_t(op.integer(4, args_.rounding.low, 255));
    args_.a_ratio = op.finite(0);
    args_.b_ratio = adds ? op.finite(1) : 0;
    args_.a_repeats = a_.step == 0;
    args_.b_repeats = b_.step == 0;
    op.require(!args_.a_repeats || !args_.b_repeats, "y is wider than both operands");
  }

  const char* kernel() const noexcept override { return isa_name(isa_); }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      BinaryInt8Args args = args_;
      args.a = run.at<const uint8_t>(a_.id) + a_.offset(row) + begin * a_.step;
      args.b = run.at<const uint8_t>(b_.id) + b_.offset(row) + begin * b_.step;
      args.y = run.at<uint8_t>(y_) + row * loop_.pitch + begin;
      args.n = end - begin;
      kernel_(args);
    });
  }

 private:
  RowsOf a_, b_;
  int32_t y_;
  RowLoop loop_;
  Kernel kernel_;
  Isa isa_;
  BinaryInt8Args args_;
};

}  // namespace

std::unique_ptr<Op> make_add_int8(const OpView& op) {
  op.counts(2, 1, 5, 2);
  return std::make_unique<BinaryInt8>(op, select_elementwise(op.isa), true);
}

std::unique_ptr<Op> make_mul_int8(const OpView& op) {
  op.counts(2, 1, 5, 1);
  return std::make_unique<BinaryInt8>(op, select_elementwise(op.isa), false);
}

}  // namespace qtool
