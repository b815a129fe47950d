// ResizeLinear: y[n][i][j] = the elements of x that i and j lie between, weighted; float32.
//
// One axis at a time: y[o][j] = x[o][low[j]] * (1 - part[j]) + x[o][high[j]] * part[j], rows of
// `inner` elements.
//
// inputs   x (outer, n, inner); low, high int32 (m,); part float32 (m,), constant
// outputs  y (outer, m, inner)
// ints     outer, n, inner
#include <vector>

#include "ops/rows.h"

namespace qtool {
namespace {

class ResizeLinear final : public Op {
 public:
  explicit ResizeLinear(const OpView& op) : x_(op.input(0).id), y_(op.output(0).id) {
    const Tensor &x = op.input(0), &y = op.output(0);
    outer_ = op.integer(0, 1, INT32_MAX);
    n_ = op.integer(1, 1, INT32_MAX);
    inner_ = op.integer(2, 1, INT32_MAX);
    op.require(x.dtype == DType::kFloat32 && y.dtype == DType::kFloat32, "it is not float32");
    op.require(x.contiguous() && y.contiguous(), "it has gaps");
    op.require(x.size() % outer_ == 0 && x.size() / outer_ == n_ * inner_, "x has another size");
    const int64_t m = op.input(1).size();
    op.require(y.size() % outer_ == 0 && y.size() / outer_ % inner_ == 0 &&
                   y.size() / outer_ / inner_ == m,
               "y has another size");
    const auto* low = op.constant<int32_t>(1, DType::kInt32, m);
    const auto* high = op.constant<int32_t>(2, DType::kInt32, m);
    const auto* part = op.constant<float>(3, DType::kFloat32, m);
    for (int64_t j = 0; j < m; ++j) {
      op.require(low[j] >= 0 && low[j] < n_ && high[j] >= 0 && high[j] < n_,
                 "an index is outside x");
      between_.push_back({low[j], high[j], part[j]});
    }
  }

  void run(const Run& run) const noexcept override {
    const auto m = int64_t(between_.size());
    run.pool->split(outer_ * m, 1 + kLeastElements / inner_, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const Between& at = between_[size_t(row % m)];
        const float* x = run.at<const float>(x_) + row / m * n_ * inner_;
        const float *low = x + at.low * inner_, *high = x + at.high * inner_;
        float* y = run.at<float>(y_) + row * inner_;
        const float rest = 1 - at.part;
        for (int64_t i = 0; i < inner_; ++i) y[i] = low[i] * rest + high[i] * at.part;
      }
    });
  }

 private:
  struct Between {
    int64_t low, high;
    float part;
  };

  int32_t x_, y_;
  int64_t outer_, n_, inner_;
  std::vector<Between> between_;
};

}  // namespace

std::unique_ptr<Op> make_resize_linear(const OpView& op) {
  op.counts(4, 1, 3, 0);
  return std::make_unique<ResizeLinear>(op);
}

}  // namespace qtool
