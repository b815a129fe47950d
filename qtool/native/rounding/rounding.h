// Rounding of weights under the quadratic loss (w - w') H (w - w')^T of one output channel.
//
// n weights per channel, rows channels. All sums run in a fixed order in float64 and only products
// and sums of single elements are vectorized, so that every machine computes the same bits.
#pragma once

#include <cstdint>

namespace qtool {

// Turns the symmetric positive definite h, (n, n) row-major, into the upper triangular u with
// inverse(h) = u^T u. Returns false where h is not positive definite; h is then spoilt.
bool inverse_factor(double* h, int64_t n);

// Replaces each row of (rows, n) by row * inverse(h), given the u of inverse_factor.
void solve_rows(const double* u, double* values, int64_t rows, int64_t n);

// A real weight at k of row r is scale[r][k] * (q - zero[r][k]), low <= q <= high.
struct RoundingArgs {
  int64_t rows, n;
  const double* w;      // (rows, n): the weights to come close to
  const double* h;      // (n, n): the loss, or its u for round_gptq
  const double* scale;  // (rows, n), positive
  const double* zero;   // (rows, n)
  double low, high;
  double* q;  // (rows, n): integers
};

// GPTQ (Frantar et al., arXiv 2210.17323), h being u: rounds weight after weight and spreads the
// error of each over those that follow.
void round_gptq(const RoundingArgs&);

// Coordinate descent from q: moves single weights by one step while that lowers the loss, at most
// `sweeps` times over each row.
void round_descent(const RoundingArgs&, int sweeps);

// Moves the scales of each row to the least squares of the loss for the integers that there are:
// columns k of equal group[k], 0 <= group[k] < groups, share one, in (rows, groups). Group after
// group, so that one pass is exact for a single group. A scale stays within a factor of 2 and is
// rounded to float32.
void round_scales(const RoundingArgs&, const int64_t* group, int64_t groups, double* scales);

// errors[r] = d h d^T for row d of (rows, n), h (n, n) row-major.
void row_errors(const double* differences, const double* h, int64_t rows, int64_t n,
                double* errors);

}  // namespace qtool
