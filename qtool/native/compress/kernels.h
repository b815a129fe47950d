// y[i] += a * x[i]: a product, then a sum, each rounded, so all variants agree bit for bit.
#pragma once

#include <cstddef>

#include "isa.h"

namespace qtool {

using AddScaledKernel = void (*)(double* y, const double* x, double a, size_t n) noexcept;

struct AddScaledVariant {
  Isa isa;
  AddScaledKernel add;
};

void add_scaled__scalar(double* y, const double* x, double a, size_t n) noexcept;
void add_scaled__avx2(double* y, const double* x, double a, size_t n) noexcept;

// The fastest that this machine may run.
AddScaledKernel add_scaled();

}  // namespace qtool
