// h[i][j] += a[p][i] * b[p][j], one p after the other, for a tile of 8 x 8.
//
// a and b hold float32 values, so every product is exact in double, with or without FMA; and each
// element of h is summed in the order of p. So all variants agree bit for bit.
#pragma once

#include <cstddef>

#include "isa.h"

namespace qtool {

constexpr size_t kTile = 8;

// a, b (n, 8), row-major; h (8, 8), row-major.
using GramTileKernel = void (*)(const double* a, const double* b, size_t n, double* h) noexcept;

struct GramVariant {
  Isa isa;
  GramTileKernel tile;
};

#define QTOOL_GRAM(isa, tile) \
  void tile(const double* a, const double* b, size_t n, double* h) noexcept;
#include "gram/kernels.inc"
#undef QTOOL_GRAM

}  // namespace qtool
