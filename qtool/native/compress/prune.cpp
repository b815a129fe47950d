#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "compress/compress.h"
#include "compress/kernels.h"

namespace qtool {
namespace {

struct Panel {
  size_t begin, end;  // columns
  size_t width() const { return end - begin; }
};

// The saliencies (w' R_jj)^2 of a panel, (C, width).
std::vector<double> saliencies(const PruneArgs& a, const std::vector<double>& left, Panel panel) {
  std::vector<double> found(a.rows * panel.width());
  for (size_t c = 0; c < a.rows; ++c) {
    for (size_t j = panel.begin; j < panel.end; ++j) {
      const double pivot = a.factor[j * a.depth + j];
      const double value = a.weights[c * a.depth + j] * pivot + left[c * a.depth + j];
      found[c * panel.width() + j - panel.begin] = value * value;
    }
  }
  return found;
}

// Clears keep where the n smallest of scores are; equal ones go in the order of their index.
template <typename Clear>
void clear_smallest(const std::vector<double>& scores, size_t n, const Clear& clear) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto less = [&](size_t a, size_t b) {
    return scores[a] != scores[b] ? scores[a] < scores[b] : a < b;
  };
  if (n < order.size()) {
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                     less);
  }
  for (size_t i = 0; i < std::min(n, order.size()); ++i) clear(order[i]);
}

void keep_groups(const PruneArgs& a, const std::vector<double>& scores, Panel panel,
                 std::vector<uint8_t>& keep) {
  for (size_t c = 0; c < a.rows; ++c) {
    for (size_t j = 0; j < panel.width(); j += a.group) {
      const size_t n = std::min(a.group, panel.width() - j), first = c * panel.width() + j;
      if (n <= a.n_keep) continue;
      const auto at = scores.begin() + static_cast<std::ptrdiff_t>(first);
      const std::vector<double> mine(at, at + static_cast<std::ptrdiff_t>(n));
      clear_smallest(mine, n - a.n_keep, [&](size_t i) { keep[first + i] = 0; });
    }
  }
}

// budget carries the fraction of a block that rounding left over from panel to panel.
void keep_blocks(const PruneArgs& a, const std::vector<double>& scores, Panel panel, double& budget,
                 std::vector<uint8_t>& keep) {
  const size_t down = (a.rows + a.block_rows - 1) / a.block_rows;
  const size_t across = (panel.width() + a.block_columns - 1) / a.block_columns;
  std::vector<double> sums(down * across), sizes(down * across);
  const auto block = [&](size_t c, size_t j) {
    return c / a.block_rows * across + j / a.block_columns;
  };
  for (size_t c = 0; c < a.rows; ++c) {
    for (size_t j = 0; j < panel.width(); ++j) {
      sums[block(c, j)] += scores[c * panel.width() + j];
      sizes[block(c, j)] += 1;
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) sums[i] /= sizes[i];
  budget += a.fraction * static_cast<double>(sums.size());
  const auto n = static_cast<size_t>(std::max(0.0, std::floor(budget + 0.5)));
  budget -= static_cast<double>(n);
  std::vector<uint8_t> gone(sums.size());
  clear_smallest(sums, n, [&](size_t i) { gone[i] = 1; });
  for (size_t c = 0; c < a.rows; ++c) {
    for (size_t j = 0; j < panel.width(); ++j) {
      if (gone[block(c, j)] != 0) keep[c * panel.width() + j] = 0;
    }
  }
}

}  // namespace

void prune_sweep(const PruneArgs& a) {
  const AddScaledKernel add = add_scaled();
  std::vector<double> left(a.rows * a.depth);
  const size_t unit = a.n_keep != 0 ? a.group : a.block_columns;
  const size_t step = std::max(unit, kPanel / unit * unit);
  double budget = 0;
  for (size_t begin = 0; begin < a.depth; begin += step) {
    const Panel panel{begin, std::min(begin + step, a.depth)};
    const std::vector<double> scores = saliencies(a, left, panel);
    std::vector<uint8_t> keep(scores.size(), 1);
    if (a.n_keep != 0) {
      keep_groups(a, scores, panel, keep);
    } else {
      keep_blocks(a, scores, panel, budget, keep);
    }
    for (size_t c = 0; c < a.rows; ++c) {
      double* mine = left.data() + c * a.depth;
      for (size_t j = begin; j < panel.end; ++j) {
        const double* row = a.factor + j * a.depth;
        double& weight = a.weights[c * a.depth + j];
        const bool kept = keep[c * panel.width() + j - begin] != 0;
        const double value = kept ? weight + mine[j] / row[j] : 0.0;
        const double error = weight - value;
        weight = value;
        if (error != 0) add(mine + j + 1, row + j + 1, error, a.depth - j - 1);
      }
    }
  }
}

void refit(size_t rows, size_t depth, const double* targets, const double* h, const uint8_t* mask,
           double* weights, int max_steps) {
  const AddScaledKernel add = add_scaled();
  std::vector<double> rest(depth), step(depth), image(depth);
  const auto times_h = [&](const std::vector<double>& x) {
    std::fill(image.begin(), image.end(), 0.0);
    for (size_t j = 0; j < depth; ++j) {
      if (x[j] != 0) add(image.data(), h + j * depth, x[j], depth);
    }
  };
  for (size_t c = 0; c < rows; ++c) {
    const double* target = targets + c * depth;
    const uint8_t* keep = mask + c * depth;
    double* v = weights + c * depth;
    for (size_t j = 0; j < depth; ++j) step[j] = target[j] - v[j];
    times_h(step);
    double size = 0;  // of the rest in the norm of the preconditioner, 1 / h_jj
    for (size_t j = 0; j < depth; ++j) {
      rest[j] = keep[j] != 0 ? image[j] : 0.0;
      step[j] = rest[j] / h[j * depth + j];
      size += rest[j] * step[j];
    }
    const double enough = size * 1e-12;
    for (int i = 0; i < max_steps && size > enough && size > 0; ++i) {
      times_h(step);
      double curve = 0;
      for (size_t j = 0; j < depth; ++j) curve += step[j] * image[j];
      if (!(curve > 0)) break;
      const double along = size / curve, before = size;
      size = 0;
      for (size_t j = 0; j < depth; ++j) {
        if (keep[j] == 0) continue;
        v[j] += along * step[j];
        rest[j] -= along * image[j];
        size += rest[j] * rest[j] / h[j * depth + j];
      }
      for (size_t j = 0; j < depth; ++j) {
        step[j] = keep[j] != 0 ? rest[j] / h[j * depth + j] + size / before * step[j] : 0.0;
      }
    }
  }
}

}  // namespace qtool
