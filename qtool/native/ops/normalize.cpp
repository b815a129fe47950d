// Normalize: y = (x - mean) / sqrt(variance + epsilon) * scale + bias over rows of n elements;
// float32. LayerNormalization, InstanceNormalization and GroupNormalization.
//
// inputs   x (rows, n); scale, bias float32 (m,), bias may be absent: element i of row r takes
//          those at i where they are per element, else at r % m
// ints     n, 1 where scale and bias are per element of a row
// floats   epsilon
#include <cmath>

#include "ops/rows.h"

namespace qtool {
namespace {

class Normalize final : public Op {
 public:
  explicit Normalize(const OpView& op)
      : x_(op.input(0).id),
        scale_(op.input(1).id),
        bias_(op.has_input(2) ? op.input(2).id : -1),
        y_(op.output(0).id),
        n_(op.integer(0, 1, INT32_MAX)),
        m_(op.input(1).size()),
        per_element_(op.integer(1, 0, 1) == 1),
        epsilon_(op.finite(0)) {
    const Tensor &x = op.input(0), &y = op.output(0);
    for (const Tensor* t : {&x, &y, &op.input(1), &op.input(op.has_input(2) ? 2 : 1)}) {
      op.require(t->dtype == DType::kFloat32 && t->contiguous(), "an operand is no dense float32");
    }
    op.require(x.size() == y.size() && x.size() % n_ == 0, "x and y do not match");
    op.require(!per_element_ || m_ == n_, "scale has another size");
    op.require(bias_ < 0 || op.input(2).size() == m_, "bias has another size");
    rows_ = x.size() / n_;
  }

  void run(const Run& run) const noexcept override {
    run.pool->split(rows_, 1 + kLeastElements / n_, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) run_row(run, row);
    });
  }

 private:
  static constexpr int64_t kParts = 16;

  void run_row(const Run& run, int64_t row) const noexcept {
    const float* x = run.at<const float>(x_) + row * n_;
    float* y = run.at<float>(y_) + row * n_;
    const float mean = sum(x, 0, false) / float(n_);
    const float deviation = std::sqrt(sum(x, mean, true) / float(n_) + epsilon_);
    const float* scale = run.at<const float>(scale_);
    const float* bias = bias_ < 0 ? nullptr : run.at<const float>(bias_);
    if (per_element_) {
      for (int64_t i = 0; i < n_; ++i) y[i] = (x[i] - mean) / deviation * scale[i];
      if (bias == nullptr) return;
      for (int64_t i = 0; i < n_; ++i) y[i] += bias[i];
    } else {
      const float factor = scale[row % m_] / deviation, add = bias == nullptr ? 0 : bias[row % m_];
      for (int64_t i = 0; i < n_; ++i) y[i] = (x[i] - mean) * factor + add;
    }
  }

  // Of x - mean, or of its square; in parts, which is fast and rounds less.
  float sum(const float* x, float mean, bool squared) const noexcept {
    float parts[kParts] = {}, total = 0;
    int64_t i = 0;
    for (; i + kParts <= n_; i += kParts) {
      for (int64_t k = 0; k < kParts; ++k) {
        const float d = x[i + k] - mean;
        parts[k] += squared ? d * d : d;
      }
    }
    for (; i < n_; ++i) {
      const float d = x[i] - mean;
      total += squared ? d * d : d;
    }
    for (float part : parts) total += part;
    return total;
  }

  int32_t x_, scale_, bias_, y_;
  int64_t rows_, n_, m_;
  bool per_element_;
  float epsilon_;
};

}  // namespace

std::unique_ptr<Op> make_normalize(const OpView& op) {
  op.counts(3, 1, 2, 1);
  return std::make_unique<Normalize>(op);
}

}  // namespace qtool
