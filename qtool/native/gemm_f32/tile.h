// The loops of gemm_f32.h for vectors of any size; to be included in one file per instruction set.
#pragma once

#include <cstring>

#include "gemm_f32/gemm_f32.h"

namespace qtool {
namespace {

// kLanes floats in a vector, kVectors of them in a panel, kRows rows in a tile.
template <int kLanes, int kVectors, int kRows>
struct Tiles {
  typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
  static constexpr int kPanel = kLanes * kVectors;

  static inline Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }

  static inline void start(const float* from, size_t bytes, Vector (&acc)[kVectors]) {
    float line[kPanel] = {};
    if (from != nullptr) std::memcpy(line, from, bytes);
    for (int j = 0; j < kVectors; ++j) acc[j] = load(line + j * kLanes);
  }

  // Rows row .. row + rows - 1 of one panel.
  template <int rows>
  static void tile(const GemmF32Args& a, int64_t row, int64_t column) {
    const int64_t left = a.n - column;
    const size_t bytes = sizeof(float) * size_t(left < kPanel ? left : kPanel);
    Vector acc[rows][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const float* bias = a.bias == nullptr ? nullptr : a.bias + column;
      start(a.adds ? a.y + (row + i) * a.y_pitch + column : bias, bytes, acc[i]);
    }
    const float* x = a.x + row * a.x_pitch;
    const float* w = a.w + column * a.k;
    for (int64_t k = 0; k < a.k; ++k, w += kPanel) {
      Vector b[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) b[j] = load(w + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const Vector one = Vector{} + x[i * a.x_pitch + k];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) acc[i][j] += one * b[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      float* y = a.y + (row + i) * a.y_pitch + column;
      if (bytes == sizeof acc[i]) {
        std::memcpy(y, acc[i], sizeof acc[i]);
      } else {
        float line[kPanel];
        std::memcpy(line, acc[i], sizeof line);
        std::memcpy(y, line, bytes);
      }
    }
  }

  template <int rows = kRows>
  static void rest(const GemmF32Args& a, int64_t row, int64_t column, int64_t count) {
    if constexpr (rows > 0) {
      if (count == rows) {
        tile<rows>(a, row, column);
      } else {
        rest<rows - 1>(a, row, column, count);
      }
    }
  }

  static void run(const GemmF32Args& args) noexcept {
    const GemmF32Args a = args;
    for (int64_t column = 0; column < a.n; column += kPanel) {
      int64_t row = 0;
      for (; row + kRows <= a.m; row += kRows) tile<kRows>(a, row, column);
      rest(a, row, column, a.m - row);
    }
  }

  static inline void dequantize_row(const DequantizePanelArgs& a, const int8_t* q, float* y) {
    for (int j = 0; j < kPanel; ++j) y[j] = (float(q[j]) - a.zero[j]) * a.scale[j];
  }

  static void dequantize(const DequantizePanelArgs& args) noexcept {
    const DequantizePanelArgs a = args;
    if (!a.halves) {
      for (int64_t i = 0; i < a.rows; ++i) dequantize_row(a, a.q + i * kPanel, a.y + i * kPanel);
      return;
    }
    for (int64_t i = 0; i < a.rows; i += 2) {
      int8_t low[kPanel], high[kPanel];
      for (int j = 0; j < kPanel; ++j) {
        const auto both = uint8_t(a.q[i / 2 * kPanel + j]);
        low[j] = int8_t(both & 15), high[j] = int8_t(both >> 4);
      }
      dequantize_row(a, low, a.y + i * kPanel);
      if (i + 1 < a.rows) dequantize_row(a, high, a.y + (i + 1) * kPanel);
    }
  }

  // Channels c .. c + vectors * kLanes - 1.
  template <int vectors>
  static inline void depthwise_block(const DepthwiseF32Args& a, int64_t c) {
    Vector acc[vectors] = {};
    if (a.bias != nullptr) {
      for (int j = 0; j < vectors; ++j) acc[j] = load(a.bias + c + j * kLanes);
    }
    for (int64_t tap = 0; tap < a.taps; ++tap) {
      if (a.x[tap] == nullptr) continue;
      const float *x = a.x[tap] + c, *w = a.w + tap * a.channels + c;
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) acc[j] += load(x + j * kLanes) * load(w + j * kLanes);
    }
    std::memcpy(a.y + c, acc, sizeof acc);
  }

  static void depthwise(const DepthwiseF32Args& args) noexcept {
    const DepthwiseF32Args a = args;
    int64_t c = 0;
    for (; c + 4 * kLanes <= a.channels; c += 4 * kLanes) depthwise_block<4>(a, c);
    for (; c + kLanes <= a.channels; c += kLanes) depthwise_block<1>(a, c);
    for (; c < a.channels; ++c) {
      float acc = a.bias == nullptr ? 0 : a.bias[c];
      for (int64_t tap = 0; tap < a.taps; ++tap) {
        if (a.x[tap] != nullptr) acc += a.x[tap][c] * a.w[tap * a.channels + c];
      }
      a.y[c] = acc;
    }
  }

  static constexpr GemmF32Variant variant(Isa isa) {
    static_assert(kPanel <= kMostPanelF32);
    return {isa, kPanel, kRows, run, dequantize, depthwise};
  }
};

}  // namespace
}  // namespace qtool
