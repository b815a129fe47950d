#include <algorithm>
#include <cmath>
#include <vector>

#include "compress/compress.h"
#include "compress/kernels.h"

namespace qtool {
namespace {

constexpr size_t kBlock = 64;  // columns whose effect on the others is applied at once

}  // namespace

// From the last column to the first: R_jj = sqrt(h_jj), R_ij = h_ij / R_jj, then
// h_ik -= R_ij R_kj for i <= k < j.
bool reverse_cholesky(double* h, size_t depth) {
  const AddScaledKernel add = add_scaled();
  std::vector<double> columns(kBlock * depth);  // of R, each contiguous
  for (size_t end = depth; end > 0;) {
    const size_t begin = end > kBlock ? end - kBlock : 0;
    for (size_t j = end; j-- > begin;) {
      const double pivot = h[j * depth + j];
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      const double root = std::sqrt(pivot);
      double* column = columns.data() + (j - begin) * depth;
      for (size_t i = 0; i < j; ++i) column[i] = h[i * depth + j] /= root;
      h[j * depth + j] = root;
      for (size_t i = 0; i < j; ++i) {  // within the block
        const size_t first = std::max(i, begin);
        add(h + i * depth + first, column + first, -column[i], j - first);
      }
    }
    for (size_t i = 0; i < begin; ++i) {  // in front of it
      for (size_t j = end; j-- > begin;) {
        const double* column = columns.data() + (j - begin) * depth;
        add(h + i * depth + i, column + i, -column[i], begin - i);
      }
    }
    end = begin;
  }
  return true;
}

}  // namespace qtool
