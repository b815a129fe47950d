// Loops over the rows of tensors: how operands broadcast, and how threads share the work.
#pragma once

#include <algorithm>

#include "runtime/op.h"

namespace qtool {

constexpr int64_t kLeastElements = 16384;  // per thread: some microseconds of simple arithmetic

// Which row of an operand x each row of y reads, as numpy broadcasts x to y.
class RowsOf {
 public:
  RowsOf(const OpView& op, const Tensor& x, const Tensor& y)
      : id(x.id), step(x.columns == 1 && y.columns > 1 ? 0 : 1), pitch_(x.pitch), rank_(y.rank) {
    op.require(x.rank <= y.rank, "an operand has more dims than the result");
    int64_t stride = 1;
    for (int i = 0; i < y.rank; ++i) {  // from the last axis on
      const int64_t to = y.dims[y.rank - 1 - i];
      const int64_t from = i < x.rank ? x.dims[x.rank - 1 - i] : 1;
      op.require(from == to || from == 1, "an operand does not broadcast to the result");
      if (i == 0) continue;
      dims_[i - 1] = to;
      strides_[i - 1] = from == 1 ? 0 : stride;
      stride *= from;
    }
    same_ = x.rows == y.rows && stride == y.rows;
    flat_ = same_ && x.columns == y.columns && x.contiguous();
  }

  const int32_t id;
  const int step;  // 0 where the only column of x repeats, else 1

  bool flat() const noexcept { return flat_; }  // x is y's elements in y's order, without gaps

  // Elements from the start of x to the row that row r of y reads.
  int64_t offset(int64_t r) const noexcept {
    if (same_) return r * pitch_;
    int64_t row = 0;
    for (int i = 0; i < rank_ - 1; ++i) {
      row += r % dims_[i] * strides_[i];
      r /= dims_[i];
    }
    return row * pitch_;
  }

 private:
  int64_t pitch_;
  int rank_;
  bool same_, flat_;
  int64_t dims_[kMaxRank] = {}, strides_[kMaxRank] = {};  // of y and x, last axis but one first
};

// The rows of y as a loop that threads share: without gaps they are one long row.
struct RowLoop {
  int64_t rows, columns, pitch;
  bool flat;

  RowLoop(const Tensor& y, bool operands_flat)
      : rows(y.rows), columns(y.columns), pitch(y.pitch), flat(operands_flat && y.contiguous()) {}

  // Calls body(row, begin, end) for the elements begin .. end - 1 of each row.
  template <typename Body>
  void run(Pool* pool, const Body& body) const noexcept {
    if (flat) {
      pool->split(rows * columns, kLeastElements,
                  [&](int64_t begin, int64_t end, int) { body(int64_t{0}, begin, end); });
      return;
    }
    const int64_t grain = std::max<int64_t>(1, kLeastElements / columns);
    pool->split(rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) body(row, int64_t{0}, columns);
    });
  }
};

}  // namespace qtool
