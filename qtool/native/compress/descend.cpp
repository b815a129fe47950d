#include <cmath>
#include <vector>

#include "compress/compress.h"
#include "compress/kernels.h"

namespace qtool {
namespace {

constexpr double kLeast = 1e-9;  // of a row's cost, that a step has to save

struct Step {
  int32_t level;
  double saved;
};

// The step of one weight that saves most: one level up or down, or to zero. slope is
// ((w - q) H)_j: moving q by d changes the output error by d (d H_jj - 2 slope).
Step best_step(const DescendArgs& a, int32_t now, double scale, double slope, double diagonal,
               double lambda) {
  Step best{now, 0.0};
  for (const int32_t level : {now - 1, now + 1, a.zero}) {
    if (level < 0 || level >= a.n_levels || level == now) continue;
    const double moved = scale * (a.levels[level] - a.levels[now]);
    const double cost =
        moved * (moved * diagonal - 2 * slope) + lambda * (a.bits[level] - a.bits[now]);
    if (-cost > best.saved) best = {level, -cost};
  }
  return best;
}

}  // namespace

void descend(const DescendArgs& a) {
  const AddScaledKernel add = add_scaled();
  std::vector<double> slope(a.depth), error(a.depth);
  for (size_t c = 0; c < a.rows; ++c) {
    const double* weights = a.weights + c * a.depth;
    int32_t* indices = a.indices + c * a.depth;
    const double scale = a.scales[c];
    std::fill(slope.begin(), slope.end(), 0.0);
    for (size_t j = 0; j < a.depth; ++j) {
      error[j] = weights[j] - scale * a.levels[indices[j]];
      if (error[j] != 0) add(slope.data(), a.h + j * a.depth, error[j], a.depth);
    }
    for (int pass = 0; pass < a.passes; ++pass) {
      bool moved = false;
      for (size_t j = 0; j < a.depth; ++j) {
        if (a.mask != nullptr && a.mask[c * a.depth + j] == 0) continue;
        const double diagonal = a.h[j * a.depth + j];
        const Step step = best_step(a, indices[j], scale, slope[j], diagonal, a.lambdas[c]);
        if (!(step.saved > kLeast * (diagonal * scale * scale + a.lambdas[c]))) continue;
        const double by = scale * (a.levels[step.level] - a.levels[indices[j]]);
        indices[j] = step.level;
        error[j] -= by;
        add(slope.data(), a.h + j * a.depth, -by, a.depth);
        moved = true;
      }
      if (!moved) break;
    }
    a.costs[c] = 0;
    for (size_t j = 0; j < a.depth; ++j) a.costs[c] += error[j] * slope[j];
  }
}

}  // namespace qtool
