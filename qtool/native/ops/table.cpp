// Table: y = table[x], eq. 16; x uint8, table (256,) of y's type, uint8 or float32. Or a table for
// each channel: table (channels, 256) of uint8.
#include <vector>

#include "ops/rows.h"

namespace qtool {
namespace {

template <typename T>
class Table final : public Op {
 public:
  Table(const OpView& op, DType dtype)
      : x_(op.input(0)), y_(op.output(0).id), loop_(op.output(0), x_.contiguous()) {
    op.require(x_.dtype == DType::kUint8, "x is not uint8");
    op.require(same_dims(x_, op.output(0)), "x and y differ in shape");
    const int64_t size = op.input(1).size();
    per_channel_ = size != 256;
    op.require(!per_channel_ || size == 256 * x_.columns, "the table has another size");
    const T* table = op.constant<T>(1, dtype, size);
    table_.assign(table, table + size);
    if (per_channel_) loop_.flat = false;
  }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const uint8_t* x = run.at<const uint8_t>(x_.id) + row * x_.pitch;
      T* y = run.at<T>(y_) + row * loop_.pitch;
      if (per_channel_) {
        for (int64_t i = begin; i < end; ++i) y[i] = table_[size_t(i * 256 + x[i])];
      } else {
        for (int64_t i = begin; i < end; ++i) y[i] = table_[x[i]];
      }
    });
  }

  size_t packed_bytes() const noexcept override { return table_.size() * sizeof(T); }

 private:
  Tensor x_;
  int32_t y_;
  RowLoop loop_;
  bool per_channel_;
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
