// qtool.compress' and qtool.hessian's view of compress/: checks every argument, releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "compress/compress.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T, size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

bool reverse_cholesky(const Array<double, 2>& h) {
  require(h.shape(0) == h.shape(1), "h is not square");
  const nb::gil_scoped_release unlocked;
  return qtool::reverse_cholesky(h.data(), h.shape(0));
}

void check_factor(const Array<const double, 2>& weights, const Array<const double, 2>& factor) {
  const size_t depth = weights.shape(1);
  require(factor.shape(0) == depth && factor.shape(1) == depth, "the factor has another size");
  for (size_t j = 0; j < depth; ++j) {
    const double pivot = factor.data()[j * depth + j];
    require(pivot > 0 && std::isfinite(pivot), "the factor has no positive diagonal");
  }
}

using Levels = Array<const double, 1>;

void check_levels(const Levels& levels, const Levels& bits, const Levels& scales, int zero) {
  const size_t n = levels.shape(0);
  require(n > 0 && n <= 65536 && bits.shape(0) == n && zero >= 0 && static_cast<size_t>(zero) < n,
          "levels and bits do not fit");
  require(std::is_sorted(levels.data(), levels.data() + n), "levels are not ascending");
  for (size_t c = 0; c < scales.shape(0); ++c) {
    require(scales.data()[c] > 0, "a scale is not positive");
  }
}

// The data of a mask of these rows and columns, or null; held keeps it alive.
const uint8_t* kept_of(const nb::object& mask, size_t rows, size_t depth,
                       Array<const uint8_t, 2>& held) {
  if (mask.is_none()) return nullptr;
  held = nb::cast<Array<const uint8_t, 2>>(mask);
  require(held.shape(0) == rows && held.shape(1) == depth, "the mask has another shape");
  return held.data();
}

void sweep(const Array<const double, 2>& weights, const Array<const double, 2>& factor,
           const Array<const double, 1>& scales, const Array<const double, 1>& lambdas,
           const Array<const double, 1>& levels, const Array<const double, 1>& bits, int zero,
           const Array<int32_t, 2>& indices, const Array<double, 1>& costs,
           const nb::object& mask) {
  const size_t rows = weights.shape(0), depth = weights.shape(1);
  check_factor(weights, factor);
  require(scales.shape(0) == rows && lambdas.shape(0) == rows && costs.shape(0) == rows &&
              indices.shape(0) == rows && indices.shape(1) == depth,
          "an array has another number of rows or columns");
  check_levels(levels, bits, scales, zero);
  Array<const uint8_t, 2> held;
  const uint8_t* kept = kept_of(mask, rows, depth, held);
  const nb::gil_scoped_release unlocked;
  qtool::sweep({rows, depth, weights.data(), factor.data(), scales.data(), lambdas.data(),
                levels.data(), bits.data(), static_cast<int32_t>(levels.shape(0)), zero, kept,
                indices.data(), costs.data()});
}

void descend(const Array<const double, 2>& weights, const Array<const double, 2>& h,
             const Levels& scales, const Levels& lambdas, const Levels& levels, const Levels& bits,
             int zero, const Array<int32_t, 2>& indices, const Array<double, 1>& costs,
             const nb::object& mask, int passes) {
  const size_t rows = weights.shape(0), depth = weights.shape(1);
  require(h.shape(0) == depth && h.shape(1) == depth, "h has another size");
  require(scales.shape(0) == rows && lambdas.shape(0) == rows && costs.shape(0) == rows &&
              indices.shape(0) == rows && indices.shape(1) == depth,
          "an array has another number of rows or columns");
  check_levels(levels, bits, scales, zero);
  const auto n = static_cast<int32_t>(levels.shape(0));
  const int32_t* given = indices.data();
  require(std::all_of(given, given + rows * depth, [n](int32_t i) { return i >= 0 && i < n; }),
          "an index is no level");
  Array<const uint8_t, 2> held;
  const uint8_t* kept = kept_of(mask, rows, depth, held);
  const nb::gil_scoped_release unlocked;
  qtool::descend({rows, depth, weights.data(), h.data(), scales.data(), lambdas.data(),
                  levels.data(), bits.data(), n, zero, kept, indices.data(), costs.data(), passes});
}

void prune_sweep(const Array<double, 2>& weights, const Array<const double, 2>& factor,
                 double fraction, size_t block_rows, size_t block_columns, size_t n_keep,
                 size_t group) {
  check_factor(Array<const double, 2>(weights), factor);
  require(fraction >= 0 && fraction <= 1, "the fraction is not between 0 and 1");
  require(block_rows > 0 && block_columns > 0 && n_keep <= group && group <= 4096 &&
              block_columns <= 4096,
          "the pattern is impossible");
  const nb::gil_scoped_release unlocked;
  qtool::prune_sweep({weights.shape(0), weights.shape(1), weights.data(), factor.data(), fraction,
                      block_rows, block_columns, n_keep, group});
}

void refit(const Array<const double, 2>& targets, const Array<const double, 2>& h,
           const Array<const uint8_t, 2>& mask, const Array<double, 2>& weights, int max_steps) {
  check_factor(targets, h);
  for (const auto& other : {mask.shape(0), weights.shape(0)}) {
    require(other == targets.shape(0), "an array has another number of rows");
  }
  for (const auto& other : {mask.shape(1), weights.shape(1)}) {
    require(other == targets.shape(1), "an array has another number of columns");
  }
  const nb::gil_scoped_release unlocked;
  qtool::refit(targets.shape(0), targets.shape(1), targets.data(), h.data(), mask.data(),
               weights.data(), max_steps);
}

void optimal_clusters(const Array<const double, 1>& counts, const Array<const double, 1>& sums,
                      const Array<int32_t, 1>& bounds) {
  require(counts.shape(0) == sums.shape(0) && counts.shape(0) > 0 && counts.shape(0) <= 1 << 20,
          "counts and sums do not fit");
  require(bounds.shape(0) > 0 && bounds.shape(0) <= 65536, "impossible number of clusters");
  const nb::gil_scoped_release unlocked;
  qtool::optimal_clusters(counts.shape(0), counts.data(), sums.data(), bounds.shape(0),
                          bounds.data());
}

void nearest(const Array<const float, 1>& values, const Array<const float, 1>& centroids,
             const Array<uint8_t, 1>& indices) {
  require(values.shape(0) == indices.shape(0), "values and indices do not fit");
  require(centroids.shape(0) > 0 && centroids.shape(0) <= 256, "there must be 1 to 256 centroids");
  const nb::gil_scoped_release unlocked;
  qtool::nearest(values.shape(0), values.data(), centroids.shape(0), centroids.data(),
                 indices.data());
}

void bin_values(const Array<const float, 1>& values, const nb::object& weights, double low,
                double inverse_width, const Array<double, 1>& counts,
                const Array<double, 1>& sums) {
  require(counts.shape(0) == sums.shape(0) && counts.shape(0) > 0, "counts and sums do not fit");
  Array<const float, 1> held;
  if (!weights.is_none()) {
    held = nb::cast<Array<const float, 1>>(weights);
    require(held.shape(0) == values.shape(0), "values and weights do not fit");
  }
  const float* given = weights.is_none() ? nullptr : held.data();
  const nb::gil_scoped_release unlocked;
  qtool::bin_values(values.shape(0), values.data(), given, low, inverse_width, counts.shape(0),
                    counts.data(), sums.data());
}

}  // namespace

void bind_compress(nb::module_& module) {
  module.def("reverse_cholesky", &reverse_cholesky, "h"_a.noconvert());
  module.def("sweep", &sweep, "weights"_a.noconvert(), "factor"_a.noconvert(),
             "scales"_a.noconvert(), "lambdas"_a.noconvert(), "levels"_a.noconvert(),
             "bits"_a.noconvert(), "zero"_a, "indices"_a.noconvert(), "costs"_a.noconvert(),
             "mask"_a.none());
  module.def("descend", &descend, "weights"_a.noconvert(), "h"_a.noconvert(),
             "scales"_a.noconvert(), "lambdas"_a.noconvert(), "levels"_a.noconvert(),
             "bits"_a.noconvert(), "zero"_a, "indices"_a.noconvert(), "costs"_a.noconvert(),
             "mask"_a.none(), "passes"_a);
  module.def("prune_sweep", &prune_sweep, "weights"_a.noconvert(), "factor"_a.noconvert(),
             nb::kw_only(), "fraction"_a = 0.0, "block_rows"_a = 1, "block_columns"_a = 1,
             "n_keep"_a = 0, "group"_a = 0);
  module.def("refit", &refit, "targets"_a.noconvert(), "h"_a.noconvert(), "mask"_a.noconvert(),
             "weights"_a.noconvert(), "max_steps"_a);
  module.def("optimal_clusters", &optimal_clusters, "counts"_a.noconvert(), "sums"_a.noconvert(),
             "bounds"_a.noconvert());
  module.def("nearest", &nearest, "values"_a.noconvert(), "centroids"_a.noconvert(),
             "indices"_a.noconvert());
  module.def("bin_values", &bin_values, "values"_a.noconvert(), "weights"_a.none(), "low"_a,
             "inverse_width"_a, "counts"_a.noconvert(), "sums"_a.noconvert());
}
