#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "rounding/rounding.h"

namespace qtool {
namespace {

// y[i] -= a * x[i]
void subtract(double* y, double a, const double* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] -= a * x[i];
}

constexpr int64_t kBlock = 16;  // pivot rows that each pass over what remains subtracts

// Turns the upper triangle of a into v with v^T v = a.
bool factor(double* a, int64_t n) {
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t end = first + kBlock < n ? first + kBlock : n;
    for (int64_t k = first; k < end; ++k) {
      double* const pivot = a + k * n;
      for (int64_t j = first; j < k; ++j) subtract(pivot + k, a[j * n + k], a + j * n + k, n - k);
      if (!(pivot[k] > 0) || !std::isfinite(pivot[k])) return false;
      const double root = std::sqrt(pivot[k]);
      for (int64_t i = k; i < n; ++i) pivot[i] /= root;
    }
    for (int64_t i = end; i < n; ++i) {
      for (int64_t k = first; k < end; ++k) {
        subtract(a + i * n + i, a[k * n + i], a + k * n + i, n - i);
      }
    }
  }
  return true;
}

// Turns the upper triangular v into its inverse, from the last row up.
void invert(double* v, int64_t n) {
  std::vector<double> row(static_cast<size_t>(n));
  for (int64_t i = n - 1; i >= 0; --i) {
    std::fill(row.begin(), row.end(), 0.0);
    row[static_cast<size_t>(i)] = 1.0;
    for (int64_t k = i + 1; k < n; ++k)
      subtract(&row[size_t(k)], v[i * n + k], v + k * n + k, n - k);
    const double pivot = v[i * n + i];
    for (int64_t k = i; k < n; ++k) v[i * n + k] = row[static_cast<size_t>(k)] / pivot;
  }
}

}  // namespace

bool inverse_factor(double* h, int64_t n) {
  // With rows and columns reversed, h = v^T v; then u is inverse(v)^T reversed again.
  const int64_t last = n * n - 1;
  for (int64_t i = 0; i < last - i; ++i) std::swap(h[i], h[last - i]);
  if (!factor(h, n)) return false;
  invert(h, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) h[i * n + j] = 0.0;
  }
  // u[a][b] = x[n - 1 - b][n - 1 - a]: mirrored at the other diagonal.
  for (int64_t a = 0; a < n; ++a) {
    for (int64_t b = 0; a + b < n - 1; ++b) std::swap(h[a * n + b], h[(n - 1 - b) * n + n - 1 - a]);
  }
  return true;
}

void solve_rows(const double* u, double* values, int64_t rows, int64_t n) {
  std::vector<double> turned(static_cast<size_t>(n * n)), half(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < n; ++k) turned[size_t(k * n + i)] = u[i * n + k];
  }
  for (int64_t r = 0; r < rows; ++r) {
    double* const row = values + r * n;
    std::fill(half.begin(), half.end(), 0.0);
    for (int64_t k = 0; k < n; ++k) subtract(half.data(), -row[k], &turned[size_t(k * n)], k + 1);
    std::fill(row, row + n, 0.0);
    for (int64_t i = 0; i < n; ++i) subtract(row + i, -half[size_t(i)], u + i * n + i, n - i);
  }
}

}  // namespace qtool
