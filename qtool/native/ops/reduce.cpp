// Reduce:    y[o][i] = f over j of x[o][j][i], of any type.
// ArgExtreme: y[o][i] = the first (or last) j where x[o][j][i] is the largest (or smallest); int64.
//
// ints     of Reduce the function's number, outer, n, inner;
//          of ArgExtreme 1 for the smallest, 1 for the last, outer, n, inner
#include <vector>

#include "ops/rows.h"
#include "ops/types.h"

namespace qtool {
namespace {

enum class Function { kSum, kMean, kMax, kMin, kProduct, kSumSquare, kL1, kL2, kCount };

struct Shape {
  int64_t outer, n, inner;

  Shape(const OpView& op, size_t first)
      : outer(op.integer(first, 1, INT32_MAX)),
        n(op.integer(first + 1, 1, INT32_MAX)),
        inner(op.integer(first + 2, 1, INT32_MAX)) {
    const Tensor &x = op.input(0), &y = op.output(0);
    op.require(x.contiguous() && y.contiguous(), "it has gaps");
    op.require(y.size() % outer == 0 && y.size() / outer == inner, "y has another size");
    op.require(x.size() % y.size() == 0 && x.size() / y.size() == n, "x has another size");
  }
};

template <typename T>
T start(Function f, T first) {
  switch (f) {
    case Function::kProduct:
      return 1;
    case Function::kMax:
    case Function::kMin:
      return first;
    default:
      return 0;
  }
}

template <typename T>
T step(Function f, T so_far, T x) {
  using W = Wrapping<T>;
  switch (f) {
    case Function::kMax:
      return so_far < x ? x : so_far;
    case Function::kMin:
      return x < so_far ? x : so_far;
    case Function::kProduct:
      return W::mul(so_far, x);
    case Function::kSumSquare:
    case Function::kL2:
      return W::add(so_far, W::mul(x, x));
    case Function::kL1:
      return W::add(so_far, x < 0 ? W::sub(0, x) : x);
    default:
      return W::add(so_far, x);
  }
}

template <typename T>
T finish(Function f, T total, int64_t n) {
  if (f == Function::kMean) return quotient(total, T(n));
  if (f == Function::kL2) return converted<T>(std::sqrt(double(total)));
  return total;
}

// Rows of `inner` are added up side by side; a single column in eight parts, so that it is fast and
// rounds less.
template <typename T>
class Reduce final : public Op {
 public:
  explicit Reduce(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0).id),
        function_(Function(op.integer(0, 0, int(Function::kCount) - 1))),
        shape_(op, 1) {}

  void run(const Run& run) const noexcept override {
    const int64_t each = shape_.n * shape_.inner;
    run.pool->split(shape_.outer, 1 + kLeastElements / each, [&](int64_t begin, int64_t end, int) {
      for (int64_t o = begin; o < end; ++o) {
        const T* x = run.at<const T>(x_) + o * each;
        T* y = run.at<T>(y_) + o * shape_.inner;
        if (shape_.inner == 1) {
          *y = finish(function_, column(x), shape_.n);
        } else {
          rows(x, y);
        }
      }
    });
  }

 private:
  static constexpr int64_t kParts = 8;

  T column(const T* x) const noexcept {
    T parts[kParts];
    for (T& part : parts) part = start(function_, x[0]);
    int64_t j = 0;
    for (; j + kParts <= shape_.n; j += kParts) {
      for (int64_t k = 0; k < kParts; ++k) parts[k] = step(function_, parts[k], x[j + k]);
    }
    for (; j < shape_.n; ++j) parts[0] = step(function_, parts[0], x[j]);
    for (int64_t k = 1; k < kParts; ++k) parts[0] = joined(parts[0], parts[k]);
    return parts[0];
  }

  T joined(T a, T b) const noexcept {
    const bool as_it_is = function_ == Function::kMax || function_ == Function::kMin ||
                          function_ == Function::kProduct;
    return as_it_is ? step(function_, a, b) : Wrapping<T>::add(a, b);
  }

  void rows(const T* x, T* y) const noexcept {
    for (int64_t i = 0; i < shape_.inner; ++i) y[i] = start(function_, x[i]);
    for (int64_t j = 0; j < shape_.n; ++j) {
      const T* row = x + j * shape_.inner;
      for (int64_t i = 0; i < shape_.inner; ++i) y[i] = step(function_, y[i], row[i]);
    }
    for (int64_t i = 0; i < shape_.inner; ++i) y[i] = finish(function_, y[i], shape_.n);
  }

  int32_t x_, y_;
  Function function_;
  Shape shape_;
};

template <typename T>
class ArgExtreme final : public Op {
 public:
  explicit ArgExtreme(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0).id),
        smallest_(op.integer(0, 0, 1) == 1),
        last_(op.integer(1, 0, 1) == 1),
        shape_(op, 2) {}

  void run(const Run& run) const noexcept override {
    const int64_t n = shape_.outer * shape_.inner;
    run.pool->split(n, 1 + kLeastElements / shape_.n, [&](int64_t begin, int64_t end, int) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t first = at / shape_.inner * shape_.n * shape_.inner + at % shape_.inner;
        run.at<int64_t>(y_)[at] = find(run.at<const T>(x_) + first);
      }
    });
  }

 private:
  int64_t find(const T* x) const noexcept {
    int64_t found = 0;
    for (int64_t j = 1; j < shape_.n; ++j) {
      const T best = x[found * shape_.inner], now = x[j * shape_.inner];
      if (smallest_ ? now < best : best < now) found = j;
      if (last_ && now == best) found = j;
    }
    return found;
  }

  int32_t x_, y_;
  bool smallest_, last_;
  Shape shape_;
};

}  // namespace

std::unique_ptr<Op> make_reduce(const OpView& op) {
  op.counts(1, 1, 4, 0);
  op.require(op.input(0).dtype == op.output(0).dtype, "x and y differ in type");
  return with_type(op.input(0).dtype, [&](auto type) -> std::unique_ptr<Op> {
    return std::make_unique<Reduce<typename decltype(type)::type>>(op);
  });
}

std::unique_ptr<Op> make_arg_extreme(const OpView& op) {
  op.counts(1, 1, 5, 0);
  op.require(op.output(0).dtype == DType::kInt64, "y is not int64");
  return with_type(op.input(0).dtype, [&](auto type) -> std::unique_ptr<Op> {
    return std::make_unique<ArgExtreme<typename decltype(type)::type>>(op);
  });
}

}  // namespace qtool
