// From the DType of a record to a type of C++.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>

#include "runtime/op.h"

namespace qtool {

template <typename T>
struct Type {
  using type = T;
};

// Returns make(Type<T>{}) for the type that a DType stands for; bool is uint8_t of 0 and 1.
template <typename Make>
std::unique_ptr<Op> with_type(DType dtype, const Make& make) {
  switch (dtype) {
    case DType::kFloat32:
      return make(Type<float>{});
    case DType::kUint8:
    case DType::kBool:
      return make(Type<uint8_t>{});
    case DType::kInt8:
      return make(Type<int8_t>{});
    case DType::kInt32:
      return make(Type<int32_t>{});
    case DType::kInt64:
      return make(Type<int64_t>{});
    case DType::kUint16:
      return make(Type<uint16_t>{});
    case DType::kInt16:
      return make(Type<int16_t>{});
    case DType::kFloat64:
      return make(Type<double>{});
  }
  return nullptr;
}

// Arithmetic of integers that wraps, as numpy's does.
template <typename T, bool = std::is_integral<T>::value>
struct Wrapping {
  static T add(T a, T b) { return a + b; }
  static T sub(T a, T b) { return a - b; }
  static T mul(T a, T b) { return a * b; }
};

template <typename T>
struct Wrapping<T, true> {
  using U = uint64_t;
  static T add(T a, T b) { return T(U(a) + U(b)); }
  static T sub(T a, T b) { return T(U(a) - U(b)); }
  static T mul(T a, T b) { return T(U(a) * U(b)); }
};

// a / b toward zero; of integers 0 where b is 0, and the smallest one divided by -1 stays.
template <typename T>
T quotient(T a, T b) {
  if constexpr (std::is_integral<T>::value) {
    if (b == 0) return 0;
    if (std::is_signed<T>::value && b == T(-1)) return Wrapping<T>::sub(0, a);
  }
  return a / b;
}

// To another type; floats are cut towards zero and saturate, NaN gives 0.
template <typename To, typename From>
To converted(From x) {
  if constexpr (std::is_floating_point<From>::value && std::is_integral<To>::value) {
    constexpr auto kLow = std::numeric_limits<To>::min(), kHigh = std::numeric_limits<To>::max();
    if (!(x == x)) return 0;
    if (x <= From(kLow)) return kLow;
    if (x >= From(kHigh)) return kHigh;
  }
  return To(x);
}

}  // namespace qtool
