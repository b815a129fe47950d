// The matrices of a batched product: a (..., m, k), b (..., k, n), y (..., m, n), whose leading
// dims broadcast.
#pragma once

#include <utility>
#include <vector>

#include "ops/rows.h"

namespace qtool {

struct Batches {
  int64_t m, n, k;
  std::vector<std::pair<int64_t, int64_t>> starts;  // elements from the start of a and b, by batch

  // b is (..., n, k) where transposed, (n, (k + 1) / 2) where halves.
  Batches(const OpView& op, const Tensor& a, const Tensor& b, const Tensor& y, bool transposed,
          bool halves = false) {
    op.require(a.contiguous() && b.contiguous() && y.contiguous(), "it has gaps");
    op.require(b.rank >= 2 && a.rank >= 2 && y.rank >= 2, "an operand is no matrix");
    m = a.dims[a.rank - 2], k = a.columns;
    n = transposed ? b.dims[b.rank - 2] : b.columns;
    op.require((transposed ? b.columns : b.dims[b.rank - 2]) == (halves ? (k + 1) / 2 : k),
               "a and b do not fit");
    op.require(y.dims[y.rank - 2] == m && y.columns == n, "y has another size");
    op.require(a.rank <= y.rank && b.rank <= y.rank, "y has fewer dims than an operand");
    check(op, a, y);
    check(op, b, y);
    const int64_t count = y.rows / m;
    op.require(count <= (1 << 20), "too many matrices");
    for (int64_t i = 0; i < count; ++i) starts.emplace_back(start(a, y, i), start(b, y, i));
  }

 private:
  static void check(const OpView& op, const Tensor& x, const Tensor& y) {
    for (int i = 3; i <= x.rank; ++i) {
      const int32_t from = x.dims[x.rank - i], to = y.dims[y.rank - i];
      op.require(from == to || from == 1, "an operand does not broadcast to the result");
    }
  }

  static int64_t start(const Tensor& x, const Tensor& y, int64_t batch) {
    int64_t index = 0, stride = int64_t{x.dims[x.rank - 2]} * x.columns;
    for (int i = 3; i <= y.rank; ++i) {
      const int64_t at = batch % y.dims[y.rank - i];
      batch /= y.dims[y.rank - i];
      if (i > x.rank) continue;
      const int32_t from = x.dims[x.rank - i];
      if (from > 1) index += at * stride;
      stride *= from;
    }
    return index;
  }
};

}  // namespace qtool
