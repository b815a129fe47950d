// Table: y = table[x], eq. 16; x uint8, table (256,) of y's type, uint8 or float32.
#include <vector>

#include "ops/rows.h"

namespace qtool {
namespace {

template <typename T>
class Table final : public Op {
 public:
  Table(const OpView& op, DType dtype)
      : x_(op, op.input(0), op.output(0)), y_(op.output(0).id), loop_(op.output(0), x_.flat()) {
    op.require(op.input(0).dtype == DType::kUint8, "x is not uint8");
    const T* table = op.constant<T>(1, dtype, 256);
    table_.assign(table, table + 256);
  }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const uint8_t* x = run.at<const uint8_t>(x_.id) + x_.offset(row);
      T* y = run.at<T>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) y[i] = table_[x[i * x_.step]];
    });
  }

  size_t packed_bytes() const noexcept override { return table_.size() * sizeof(T); }

 private:
  RowsOf x_;
  int32_t y_;
  RowLoop loop_;
  std::vector<T> table_;
};

}  // namespace

std::unique_ptr<Op> make_table(const OpView& op) {
  op.counts(2, 1, 0, 0);
  const DType dtype = op.output(0).dtype;
  if (dtype == DType::kUint8) return std::make_unique<Table<uint8_t>>(op, dtype);
  op.require(dtype == DType::kFloat32, "y is neither uint8 nor float32");
  return std::make_unique<Table<float>>(op, dtype);
}

}  // namespace qtool
