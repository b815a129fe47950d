// The loops of gemm_s16.h around an instruction that multiplies and adds pairs; to be included in
// one file per instruction set.
#pragma once

#include <cstring>

#include "gemm_s16/finish.h"

namespace qtool {
namespace {

// Pairs: Vector of kLanes int32; zero(); widened(const int8_t*), of kLanes pairs, as int16;
// broadcast(pair); add_products(acc, a, b); store(int32_t*, Vector).
template <class Pairs, int kRows>
struct TilesS16 {
  static constexpr int kVectors = int(kPanelS16) / Pairs::kLanes;
  using Vector = typename Pairs::Vector;

  template <int rows>
  static void tile(const GemmS16Args& a, int64_t row) {
    Vector acc[rows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) acc[i][j] = Pairs::zero();
    }
    const int16_t* x = a.x + row * a.x_pitch;
    const int8_t* w = a.w;
    for (int64_t k = 0; k < a.k; k += 2, w += 2 * kPanelS16) {
      Vector b[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) b[j] = Pairs::widened(w + j * 2 * Pairs::kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        int32_t pair;
        std::memcpy(&pair, x + i * a.x_pitch + k, sizeof pair);
        const Vector one = Pairs::broadcast(pair);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) acc[i][j] = Pairs::add_products(acc[i][j], one, b[j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        Pairs::store(a.acc + (row + i) * kPanelS16 + j * Pairs::kLanes, acc[i][j]);
      }
    }
  }

  template <int rows = kRows>
  static void rest(const GemmS16Args& a, int64_t row, int64_t count) {
    if constexpr (rows > 0) {
      if (count == rows) {
        tile<rows>(a, row);
      } else {
        rest<rows - 1>(a, row, count);
      }
    }
  }

  static void run(const GemmS16Args& args) noexcept {
    const GemmS16Args a = args;
    int64_t row = 0;
    for (; row + kRows <= a.m; row += kRows) tile<kRows>(a, row);
    rest(a, row, a.m - row);
  }
};

}  // namespace
}  // namespace qtool
