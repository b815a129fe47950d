// What pruning and sharing weights of a layer computes from H = sum x x^T of its input.
//
// With H = R R^T, R upper triangular, the output error of weights q for w is
//
//     tr((w - q) H (w - q)^T) = sum over rows and columns j of ((w - q) R)_j^2
//
// and ((w - q) R)_j depends on columns 0..j only. So columns are decided in order, each with what
// the decided ones left: w'_j = w_j + t_j / R_jj, t_j = sum over k < j of (w - q)_k R_kj; its cost
// is ((w'_j - q_j) R_jj)^2. That is GPTQ (arXiv 2210.17323) without the inverse of H.
//
// Shape legend: C rows (output channels), K columns (weights of each). Everything is row-major,
// sums are in the order of their index, and rows do not touch each other: the results depend on
// neither threads nor instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qtool {

// Replaces the upper triangle of h (K, K) by R. False where H is not positive definite.
bool reverse_cholesky(double* h, size_t depth);

struct SweepArgs {
  size_t rows, depth;     // C, K
  const double* weights;  // (C, K)
  const double* factor;   // R (K, K)
  const double* scales;   // (C,) level i of row c stands for scales[c] * levels[i]
  const double* lambdas;  // (C,) cost of one bit in a row
  const double* levels;   // (n_levels,) ascending
  const double* bits;     // (n_levels,)
  int32_t n_levels;
  int32_t zero;         // index of the level that masked weights take
  const uint8_t* mask;  // (C, K) 0 where a weight has to be zero; or null
  int32_t* indices;     // (C, K) the levels chosen
  double* costs;        // (C,) the output error of each row
};

// Chooses a level for every weight, minimizing ((w' - q) R_jj)^2 + lambda bits column by column.
void sweep(const SweepArgs& args);

struct DescendArgs {
  size_t rows, depth;     // C, K
  const double* weights;  // (C, K)
  const double* h;        // H (K, K), in the order of the columns of weights
  const double* scales;   // (C,) as in SweepArgs, and so the rest
  const double* lambdas;
  const double* levels;
  const double* bits;
  int32_t n_levels;
  int32_t zero;
  const uint8_t* mask;
  int32_t* indices;  // (C, K) in and out
  double* costs;     // (C,) the output error (w - q) H (w - q)^T that is left
  int passes;        // over a row, at most
};

// Moves levels, one weight at a time, by one up or down or to zero, while that lowers
// (w - q) H (w - q)^T + lambda bits: coordinate descent (QuantEase, arXiv 2309.01885) with a price.
void descend(const DescendArgs& args);

struct PruneArgs {
  size_t rows, depth;                // C, K
  double* weights;                   // (C, K) in: w; out: what compensates, 0 where pruned
  const double* factor;              // R (K, K)
  double fraction;                   // of the weights that go, when n_keep is 0
  size_t block_rows, block_columns;  // what goes together; 1, 1 for single weights
  size_t n_keep, group;  // n:m: of each group of m columns of a row n stay; 0, 0 otherwise
};

// SparseGPT (arXiv 2301.00774): in panels of kPanel columns the weights whose (w' R_jj)^2 is the
// least go; the columns behind make up for them.
void prune_sweep(const PruneArgs& args);

constexpr size_t kPanel = 128;

// For each row of weights (C, K), in place, the least squares solution on its mask: the v with
// v_j = 0 outside that minimizes (w - v) H (w - v)^T, by conjugate gradients from what weights
// hold. targets (C, K) is w.
void refit(size_t rows, size_t depth, const double* targets, const double* h, const uint8_t* mask,
           double* weights, int max_steps);

// The k-means optimum of sorted points: bounds[i] is the first point of cluster i, k of them.
// counts (weights) and sums are those of each point; D&C dynamic program, O(k n log n).
// squares are not needed: minimizing the error is maximizing sum of sums^2 / counts.
void optimal_clusters(size_t n, const double* counts, const double* sums, size_t k,
                      int32_t* bounds);

// index of the nearest of n ascending centroids, the lower one in a tie.
void nearest(size_t n, const float* values, size_t n_centroids, const float* centroids,
             uint8_t* indices);

// Adds weights (or 1) and value * weight to the bin of each value: (value - low) * inverse_width.
void bin_values(size_t n, const float* values, const float* weights, double low,
                double inverse_width, size_t n_bins, double* counts, double* sums);

}  // namespace qtool
