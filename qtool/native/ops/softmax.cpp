// Softmax: y = exp(x - max x) / sum of exp(x - max x) along one axis; float32.
//
// ints     the axis
#include <cmath>

#include "ops/rows.h"

namespace qtool {
namespace {

class Softmax final : public Op {
 public:
  explicit Softmax(const OpView& op) : x_(op.input(0)), y_(op.output(0)) {
    op.require(x_.dtype == DType::kFloat32 && y_.dtype == DType::kFloat32, "not float32");
    op.require(same_dims(x_, y_) && x_.contiguous() && y_.contiguous(), "x and y do not match");
    const auto axis = int(op.integer(0, 0, x_.rank - 1));
    length_ = x_.dims[axis];
    for (int i = axis + 1; i < x_.rank; ++i) inner_ *= x_.dims[i];
  }

  void run(const Run& run) const noexcept override {
    const int64_t lines = x_.size() / length_;
    run.pool->split(lines, 1 + kLeastElements / 8 / length_, [&](int64_t begin, int64_t end, int) {
      for (int64_t line = begin; line < end; ++line) {
        const int64_t at = line / inner_ * length_ * inner_ + line % inner_;
        run_line(run.at<const float>(x_.id) + at, run.at<float>(y_.id) + at);
      }
    });
  }

 private:
  void run_line(const float* x, float* y) const noexcept {
    float most = x[0], sum = 0;
    for (int64_t i = 1; i < length_; ++i) most = std::max(most, x[i * inner_]);
    for (int64_t i = 0; i < length_; ++i) sum += y[i * inner_] = std::exp(x[i * inner_] - most);
    for (int64_t i = 0; i < length_; ++i) y[i * inner_] /= sum;
  }

  Tensor x_, y_;
  int64_t length_, inner_ = 1;
};

}  // namespace

std::unique_ptr<Op> make_softmax(const OpView& op) {
  op.counts(1, 1, 1, 0);
  return std::make_unique<Softmax>(op);
}

}  // namespace qtool
