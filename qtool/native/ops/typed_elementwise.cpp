// Elementwise ops of any type.
//
// Binary  y = f(a, b); a and b of one type, which broadcast to y; y bool where f compares
// Where   y = condition ? a : b; condition bool, all broadcast to y
// Cast    y = x as y's type; floats are cut towards zero and saturate; not 0 is true
//
// ints     of Binary the number of f as listed below
#include <cstring>

#include "ops/rows.h"
#include "ops/types.h"

namespace qtool {
namespace {

enum class Function {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kMin,
  kMax,
  kMod,
  kEqual,
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kAnd,
  kOr,
  kXor,
  kFmod,
  kPow,
  kCount,
};

constexpr bool compares(Function f) { return f >= Function::kEqual && f <= Function::kXor; }

// a to the power of b; of integers a negative b gives what is left of 1 / a^-b.
template <typename T>
T power(T a, T b) {
  if constexpr (std::is_floating_point<T>::value) {
    return std::pow(a, b);
  } else {
    using W = Wrapping<T>;
    if (b < 0) return a == T(1) ? a : a == T(-1) ? (b % 2 != 0 ? a : T(1)) : T(0);
    T result = 1;
    for (; b != 0; b = T(b / 2), a = W::mul(a, a)) {
      if (b % 2 != 0) result = W::mul(result, a);
    }
    return result;
  }
}

// What is left of a divided by b, with the sign of b.
template <typename T>
T modulo(T a, T b) {
  if constexpr (std::is_floating_point<T>::value) {
    const T rest = std::fmod(a, b);
    if (rest == 0) return std::copysign(rest, b);
    return (rest < 0) != (b < 0) ? rest + b : rest;
  } else {
    using W = Wrapping<T>;
    const T rest = W::sub(a, W::mul(quotient(a, b), b));
    return b != 0 && rest != 0 && (rest < 0) != (b < 0) ? W::add(rest, b) : rest;
  }
}

template <Function f, typename T>
auto apply(T a, T b) {
  using W = Wrapping<T>;
  if constexpr (f == Function::kAdd) return W::add(a, b);
  if constexpr (f == Function::kSub) return W::sub(a, b);
  if constexpr (f == Function::kMul) return W::mul(a, b);
  if constexpr (f == Function::kDiv) return quotient(a, b);
  if constexpr (f == Function::kMin) return b < a ? b : a;
  if constexpr (f == Function::kMax) return a < b ? b : a;
  if constexpr (f == Function::kMod) return modulo(a, b);
  if constexpr (f == Function::kFmod) {
    if constexpr (std::is_floating_point<T>::value) return std::fmod(a, b);
    if constexpr (std::is_integral<T>::value) return W::sub(a, W::mul(quotient(a, b), b));
  }
  if constexpr (f == Function::kPow) return power(a, b);
  if constexpr (f == Function::kEqual) return uint8_t(a == b);
  if constexpr (f == Function::kLess) return uint8_t(a < b);
  if constexpr (f == Function::kLessOrEqual) return uint8_t(a <= b);
  if constexpr (f == Function::kGreater) return uint8_t(a > b);
  if constexpr (f == Function::kGreaterOrEqual) return uint8_t(a >= b);
  if constexpr (f == Function::kAnd) return uint8_t(a != 0 && b != 0);
  if constexpr (f == Function::kOr) return uint8_t(a != 0 || b != 0);
  if constexpr (f == Function::kXor) return uint8_t((a != 0) != (b != 0));
}

template <Function f, typename T>
class Binary final : public Op {
 public:
  using Result = decltype(apply<f>(T{}, T{}));

  explicit Binary(const OpView& op)
      : a_(op, op.input(0), op.output(0)),
        b_(op, op.input(1), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), a_.flat() && b_.flat()) {}

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const T* a = run.at<const T>(a_.id) + a_.offset(row);
      const T* b = run.at<const T>(b_.id) + b_.offset(row);
      Result* y = run.at<Result>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) y[i] = apply<f>(a[i * a_.step], b[i * b_.step]);
    });
  }

 private:
  RowsOf a_, b_;
  int32_t y_;
  RowLoop loop_;
};

template <typename T, int f = 0>
std::unique_ptr<Op> binary(const OpView& op, int wanted) {
  if constexpr (f < int(Function::kCount)) {
    if (wanted == f) return std::make_unique<Binary<Function(f), T>>(op);
    return binary<T, f + 1>(op, wanted);
  }
  return nullptr;
}

template <typename T>
class Where final : public Op {
 public:
  explicit Where(const OpView& op)
      : condition_(op, op.input(0), op.output(0)),
        a_(op, op.input(1), op.output(0)),
        b_(op, op.input(2), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), condition_.flat() && a_.flat() && b_.flat()) {}

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const auto* condition = run.at<const uint8_t>(condition_.id) + condition_.offset(row);
      const T* a = run.at<const T>(a_.id) + a_.offset(row);
      const T* b = run.at<const T>(b_.id) + b_.offset(row);
      T* y = run.at<T>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) {
        y[i] = condition[i * condition_.step] != 0 ? a[i * a_.step] : b[i * b_.step];
      }
    });
  }

 private:
  RowsOf condition_, a_, b_;
  int32_t y_;
  RowLoop loop_;
};

template <typename From, typename To>
class Cast final : public Op {
 public:
  Cast(const OpView& op, bool to_bool)
      : x_(op, op.input(0), op.output(0)),
        y_(op.output(0).id),
        loop_(op.output(0), x_.flat()),
        to_bool_(to_bool) {}

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      const From* x = run.at<const From>(x_.id) + x_.offset(row);
      To* y = run.at<To>(y_) + row * loop_.pitch;
      for (int64_t i = begin; i < end; ++i) {
        y[i] = to_bool_ ? To(x[i * x_.step] != 0) : converted<To>(x[i * x_.step]);
      }
    });
  }

 private:
  RowsOf x_;
  int32_t y_;
  RowLoop loop_;
  bool to_bool_;
};

}  // namespace

std::unique_ptr<Op> make_binary(const OpView& op) {
  op.counts(2, 1, 1, 0);
  const auto f = int(op.integer(0, 0, int(Function::kCount) - 1));
  const DType dtype = op.input(0).dtype;
  op.require(op.input(1).dtype == dtype, "a and b differ in type");
  const DType made = compares(Function(f)) ? DType::kBool : dtype;
  op.require(op.output(0).dtype == made, "y has a wrong type");
  return with_type(dtype, [&](auto type) -> std::unique_ptr<Op> {
    return binary<typename decltype(type)::type>(op, f);
  });
}

std::unique_ptr<Op> make_where(const OpView& op) {
  op.counts(3, 1, 0, 0);
  op.require(op.input(0).dtype == DType::kBool, "the condition is not bool");
  const DType dtype = op.output(0).dtype;
  op.require(op.input(1).dtype == dtype && op.input(2).dtype == dtype, "types differ");
  switch (item_bytes(dtype)) {
    case 1:
      return std::make_unique<Where<uint8_t>>(op);
    case 2:
      return std::make_unique<Where<uint16_t>>(op);
    case 4:
      return std::make_unique<Where<uint32_t>>(op);
    default:
      return std::make_unique<Where<uint64_t>>(op);
  }
}

std::unique_ptr<Op> make_cast(const OpView& op) {
  op.counts(1, 1, 0, 0);
  const DType from = op.input(0).dtype, to = op.output(0).dtype;
  return with_type(from, [&](auto x) {
    return with_type(to, [&](auto y) -> std::unique_ptr<Op> {
      using From = typename decltype(x)::type;
      using To = typename decltype(y)::type;
      return std::make_unique<Cast<From, To>>(op, to == DType::kBool);
    });
  });
}

}  // namespace qtool
