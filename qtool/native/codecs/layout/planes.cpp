#include <cstring>
#include <type_traits>

#include "codecs/layout/layout.h"

namespace qtool::codecs {
namespace {

template <typename T>
constexpr int kTop = 8 * static_cast<int>(sizeof(T)) - 1;

template <typename T>
T zigzag(T x) noexcept {
  return static_cast<T>(static_cast<T>(x << 1) ^ static_cast<T>(0 - (x >> kTop<T>)));
}

template <typename T>
T unzigzag(T x) noexcept {
  return static_cast<T>(static_cast<T>(x >> 1) ^ static_cast<T>(0 - (x & 1)));
}

// The bits of a float as a number that orders as the floats do.
template <typename T>
T ordered(T x) noexcept {
  return static_cast<T>(x >> kTop<T> ? ~x : x | T{1} << kTop<T>);
}

template <typename T>
T unordered(T x) noexcept {
  return static_cast<T>(x >> kTop<T> ? x ^ T{1} << kTop<T> : ~x);
}

template <typename T>
T forward(T x, T& before, Transform transform) noexcept {
  switch (transform) {
    case Transform::kNone:
      return x;
    case Transform::kRotate:
      return static_cast<T>(x << 1 | x >> kTop<T>);
    case Transform::kZigzag:
      return zigzag(x);
    case Transform::kFloatDelta: {
      const T here = ordered(x), difference = static_cast<T>(here - before);
      before = here;
      return difference;
    }
    case Transform::kDelta: {
      const T difference = zigzag(static_cast<T>(x - before));
      before = x;
      return difference;
    }
  }
  return x;
}

template <typename T>
T backward(T x, T& before, Transform transform) noexcept {
  switch (transform) {
    case Transform::kNone:
      return x;
    case Transform::kRotate:
      return static_cast<T>(x >> 1 | x << kTop<T>);
    case Transform::kZigzag:
      return unzigzag(x);
    case Transform::kFloatDelta:
      before = static_cast<T>(before + x);
      return unordered(before);
    case Transform::kDelta:
      before = static_cast<T>(before + unzigzag(x));
      return before;
  }
  return x;
}

template <typename T, Transform transform>
void split(const uint8_t* values, size_t n, uint8_t* planes) noexcept {
  T before = 0;
  for (size_t i = 0; i < n; ++i) {
    T x;
    std::memcpy(&x, values + i * sizeof(T), sizeof(T));
    x = forward(x, before, transform);
    for (size_t k = 0; k < sizeof(T); ++k) planes[k * n + i] = static_cast<uint8_t>(x >> (8 * k));
  }
}

template <typename T, Transform transform>
void join(const uint8_t* planes, size_t n, uint8_t* values) noexcept {
  T before = 0;
  for (size_t i = 0; i < n; ++i) {
    T x = 0;
    for (size_t k = 0; k < sizeof(T); ++k) {
      x = static_cast<T>(x | static_cast<T>(T{planes[k * n + i]} << (8 * k)));
    }
    x = backward(x, before, transform);
    std::memcpy(values + i * sizeof(T), &x, sizeof(T));
  }
}

template <typename T, Transform transform>
struct Both {
  static constexpr auto split_all = &split<T, transform>;
  static constexpr auto join_all = &join<T, transform>;
};

// Calls with(Both<T, transform>) for these run-time values; false for others.
template <typename T, typename With>
bool dispatch_transform(Transform transform, const With& with) noexcept {
  switch (transform) {
    case Transform::kNone:
      return with(Both<T, Transform::kNone>());
    case Transform::kRotate:
      return with(Both<T, Transform::kRotate>());
    case Transform::kZigzag:
      return with(Both<T, Transform::kZigzag>());
    case Transform::kFloatDelta:
      return with(Both<T, Transform::kFloatDelta>());
    case Transform::kDelta:
      return with(Both<T, Transform::kDelta>());
  }
  return false;
}

template <typename With>
bool dispatch(int width, Transform transform, const With& with) noexcept {
  switch (width) {
    case 1:
      return dispatch_transform<uint8_t>(transform, with);
    case 2:
      return dispatch_transform<uint16_t>(transform, with);
    case 4:
      return dispatch_transform<uint32_t>(transform, with);
    case 8:
      return dispatch_transform<uint64_t>(transform, with);
    default:
      return false;
  }
}

}  // namespace

bool split_planes(const uint8_t* values, size_t n, int width, Transform transform,
                  uint8_t* planes) noexcept {
  return dispatch(width, transform, [&](auto both) noexcept {
    both.split_all(values, n, planes);
    return true;
  });
}

bool join_planes(const uint8_t* planes, size_t n, int width, Transform transform,
                 uint8_t* values) noexcept {
  return dispatch(width, transform, [&](auto both) noexcept {
    both.join_all(planes, n, values);
    return true;
  });
}

}  // namespace qtool::codecs
