#include <algorithm>
#include <cmath>
#include <vector>

#include "rounding/rounding.h"

namespace qtool {
namespace {

double rounded(double steps, double zero, double low, double high) {
  return std::min(std::max(std::nearbyint(steps) + zero, low), high);
}

void subtract(double* y, double a, const double* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] -= a * x[i];
}

}  // namespace

void round_gptq(const RoundingArgs& args) {
  const int64_t n = args.n;
  std::vector<double> left(args.w, args.w + args.rows * n);
  for (int64_t k = 0; k < n; ++k) {  // all rows at one weight: they share the row of u
    const double* const u = args.h + k * n;
    for (int64_t r = 0; r < args.rows; ++r) {
      const int64_t i = r * n + k;
      const double scale = args.scale[i], zero = args.zero[i], w = left[size_t(i)];
      args.q[i] = rounded(w / scale, zero, args.low, args.high);
      const double error = (w - scale * (args.q[i] - zero)) / u[k];
      subtract(&left[size_t(i)] + 1, error, u + k + 1, n - k - 1);
    }
  }
}

void round_descent(const RoundingArgs& args, int sweeps) {
  const int64_t n = args.n;
  std::vector<double> gradient(static_cast<size_t>(n));  // (w - w') h
  for (int64_t r = 0; r < args.rows; ++r) {
    const double *const w = args.w + r * n, *const scale = args.scale + r * n;
    const double* const zero = args.zero + r * n;
    double* const q = args.q + r * n;
    std::fill(gradient.begin(), gradient.end(), 0.0);
    for (int64_t k = 0; k < n; ++k) {
      subtract(gradient.data(), scale[k] * (q[k] - zero[k]) - w[k], args.h + k * n, n);
    }
    bool moved = true;
    for (int sweep = 0; moved && sweep < sweeps; ++sweep) {
      moved = false;
      for (int64_t k = 0; k < n; ++k) {
        const double g = gradient[size_t(k)], sign = g > 0 ? 1.0 : -1.0;
        const double next = q[k] + sign, step = sign * scale[k];
        // The loss changes by step * (step * h_kk - 2 g): a hair of it is left for rounding.
        const double curvature = scale[k] * args.h[k * n + k];
        if (next < args.low || next > args.high || !(curvature < 1.999999 * std::abs(g))) continue;
        q[k] = next;
        subtract(gradient.data(), step, args.h + k * n, n);
        moved = true;
      }
    }
  }
}

void round_scales(const RoundingArgs& args, const int64_t* group, int64_t groups, double* scales) {
  const int64_t n = args.n;
  std::vector<double> gradient(static_cast<size_t>(n)), product(static_cast<size_t>(n));
  for (int64_t r = 0; r < args.rows; ++r) {
    const double *const w = args.w + r * n, *const q = args.q + r * n;
    const double *const zero = args.zero + r * n, *const scale = args.scale + r * n;
    double* const made = scales + r * groups;
    std::fill(gradient.begin(), gradient.end(), 0.0);
    for (int64_t k = 0; k < n; ++k) {
      made[group[k]] = scale[k];
      subtract(gradient.data(), scale[k] * (q[k] - zero[k]) - w[k], args.h + k * n, n);
    }
    for (int64_t one = 0; one < groups; ++one) {
      std::fill(product.begin(), product.end(), 0.0);  // (q - zero) of the group's columns, times h
      for (int64_t k = 0; k < n; ++k) {
        if (group[k] == one) subtract(product.data(), zero[k] - q[k], args.h + k * n, n);
      }
      double slope = 0.0, curvature = 0.0;
      for (int64_t k = 0; k < n; ++k) {
        if (group[k] != one) continue;
        slope += (q[k] - zero[k]) * gradient[size_t(k)];
        curvature += (q[k] - zero[k]) * product[size_t(k)];
      }
      if (!(curvature > 0.0)) continue;
      const double old = made[one];
      const double moved = std::min(std::max(old + slope / curvature, 0.5 * old), 2.0 * old);
      made[one] = static_cast<double>(static_cast<float>(moved));
      if (!(made[one] > 0.0) || !std::isfinite(made[one])) made[one] = old;
      subtract(gradient.data(), made[one] - old, product.data(), n);
    }
  }
}

void row_errors(const double* differences, const double* h, int64_t rows, int64_t n,
                double* errors) {
  std::vector<double> product(static_cast<size_t>(n));
  for (int64_t r = 0; r < rows; ++r) {
    const double* const d = differences + r * n;
    std::fill(product.begin(), product.end(), 0.0);
    for (int64_t k = 0; k < n; ++k) {
      if (d[k] != 0.0) subtract(product.data(), -d[k], h + k * n, n);
    }
    double sum = 0.0;
    for (int64_t k = 0; k < n; ++k) sum += product[size_t(k)] * d[k];
    errors[r] = sum;
  }
}

}  // namespace qtool
