// Gather: y[o][j][i] = x[o][indices[j]][i]. An index below 0 counts from the end; one outside the
// axis, for which ONNX has no meaning, takes the nearest element.
//
// inputs   x (outer, n, inner); indices int32 or int64, n_indices in any shape
// ints     outer, n, inner
#include <cstring>

#include "ops/rows.h"

namespace qtool {
namespace {

template <typename Index>
class Gather final : public Op {
 public:
  explicit Gather(const OpView& op)
      : x_(op.input(0).id),
        indices_(op.input(1).id),
        y_(op.output(0).id),
        n_(op.integer(1, 1, INT32_MAX)),
        n_indices_(op.input(1).size()) {
    const Tensor &x = op.input(0), &y = op.output(0);
    outer_ = op.integer(0, 1, INT32_MAX);
    const int64_t inner = op.integer(2, 1, INT32_MAX);
    op.require(x.dtype == y.dtype, "x and y differ in type");
    op.require(x.contiguous() && y.contiguous() && op.input(1).contiguous(), "it has gaps");
    op.require(x.size() % outer_ == 0 && x.size() / outer_ == n_ * inner, "x has another size");
    op.require(y.size() % outer_ == 0 && y.size() / outer_ % inner == 0 &&
                   y.size() / outer_ / inner == n_indices_,
               "y has another size");
    bytes_ = size_t(inner) * item_bytes(x.dtype);
  }

  void run(const Run& run) const noexcept override {
    const auto* indices = run.at<const Index>(indices_);
    const int64_t grain = 1 + kLeastElements / int64_t(bytes_);
    run.pool->split(outer_ * n_indices_, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        int64_t at = indices[row % n_indices_];
        if (at < 0) at += n_;
        at = std::min(std::max<int64_t>(at, 0), n_ - 1) + row / n_indices_ * n_;
        // Not memcpy: nothing forbids a Program to let x and y overlap.
        std::memmove(run.at<uint8_t>(y_) + size_t(row) * bytes_,
                     run.at<const uint8_t>(x_) + size_t(at) * bytes_, bytes_);
      }
    });
  }

 private:
  int32_t x_, indices_, y_;
  int64_t outer_, n_, n_indices_;
  size_t bytes_;
};

}  // namespace

std::unique_ptr<Op> make_gather(const OpView& op) {
  op.counts(2, 1, 3, 0);
  if (op.input(1).dtype == DType::kInt32) return std::make_unique<Gather<int32_t>>(op);
  op.require(op.input(1).dtype == DType::kInt64, "indices are neither int32 nor int64");
  return std::make_unique<Gather<int64_t>>(op);
}

}  // namespace qtool
