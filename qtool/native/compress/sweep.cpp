#include <algorithm>
#include <cmath>
#include <vector>

#include "compress/compress.h"
#include "compress/kernels.h"

namespace qtool {
namespace {

constexpr size_t kRows = 16;    // whose sums stay in the cache while a row of R is used by all
constexpr int32_t kAround = 2;  // levels tried on either side of the nearest

// The index of the level nearest to x.
int32_t nearest_level(const SweepArgs& a, double x) {
  const double* end = a.levels + a.n_levels;
  const double* above = std::lower_bound(a.levels, end, x);
  if (above == a.levels) return 0;
  if (above == end) return a.n_levels - 1;
  const bool lower = x - above[-1] <= *above - x;
  return static_cast<int32_t>(above - a.levels) - (lower ? 1 : 0);
}

// The level of least cost for a weight that should be x = w' / scale.
int32_t best_level(const SweepArgs& a, double x, double weight, double lambda) {
  const int32_t near = nearest_level(a, x);
  if (lambda == 0) return near;
  int32_t best = near;
  double least = HUGE_VAL;
  const auto consider = [&](int32_t i) {
    const double miss = x - a.levels[i];
    const double cost = miss * miss * weight + lambda * a.bits[i];
    if (cost < least) {
      least = cost;
      best = i;
    }
  };
  consider(near);
  const int32_t last = std::min(near + kAround, a.n_levels - 1);
  for (int32_t i = std::max(near - kAround, 0); i <= last; ++i) consider(i);
  consider(a.zero);
  return best;
}

void sweep_rows(const SweepArgs& a, size_t begin, size_t end, double* left) {
  const AddScaledKernel add = add_scaled();
  std::fill(left, left + (end - begin) * a.depth, 0.0);
  std::fill(a.costs + begin, a.costs + end, 0.0);
  for (size_t j = 0; j < a.depth; ++j) {
    const double* row = a.factor + j * a.depth;
    const double pivot = row[j];
    for (size_t c = begin; c < end; ++c) {
      double* mine = left + (c - begin) * a.depth;
      const size_t at = c * a.depth + j;
      const double scale = a.scales[c], wanted = a.weights[at] + mine[j] / pivot;
      const double size = scale * pivot;
      const bool gone = a.mask != nullptr && a.mask[at] == 0;
      const int32_t i = gone ? a.zero : best_level(a, wanted / scale, size * size, a.lambdas[c]);
      const double value = scale * a.levels[i], rest = (wanted - value) * pivot;
      a.indices[at] = i;
      a.costs[c] += rest * rest;
      const double error = a.weights[at] - value;
      if (error != 0) add(mine + j + 1, row + j + 1, error, a.depth - j - 1);
    }
  }
}

}  // namespace

void sweep(const SweepArgs& args) {
  std::vector<double> left(kRows * args.depth);
  for (size_t begin = 0; begin < args.rows; begin += kRows) {
    sweep_rows(args, begin, std::min(begin + kRows, args.rows), left.data());
  }
}

}  // namespace qtool
