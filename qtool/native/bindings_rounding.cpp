// qtool.hessian's and qtool.quant.rounding's view of rounding/.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "rounding/rounding.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Matrix = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

using Groups = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::object owned(std::vector<double>&& values, size_t rows, size_t columns) {
  auto* const kept = new std::vector<double>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<double>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, double>(kept->data(), {rows, columns}, owner));
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

nb::object inverse_factor(const Matrix& h) {
  const size_t n = h.shape(0);
  require(h.shape(1) == n, "h must be square");
  std::vector<double> u(h.data(), h.data() + n * n);
  bool done;
  {
    const nb::gil_scoped_release unlocked;
    done = qtool::inverse_factor(u.data(), static_cast<int64_t>(n));
  }
  require(done, "h is not positive definite");
  return owned(std::move(u), n, n);
}

nb::object solve_rows(const Matrix& factor, const Matrix& values) {
  const size_t n = factor.shape(0);
  require(factor.shape(1) == n && values.shape(1) == n, "the factor must be (n, n)");
  std::vector<double> solved(values.data(), values.data() + values.size());
  {
    const nb::gil_scoped_release unlocked;
    qtool::solve_rows(factor.data(), solved.data(), static_cast<int64_t>(values.shape(0)),
                      static_cast<int64_t>(n));
  }
  return owned(std::move(solved), values.shape(0), n);
}

qtool::RoundingArgs arguments(const Matrix& w, const Matrix& h, const Matrix& scale,
                              const Matrix& zero, double low, double high) {
  const size_t rows = w.shape(0), n = w.shape(1);
  require(h.shape(0) == n && h.shape(1) == n, "the matrix must be (n, n)");
  for (const Matrix* one : {&scale, &zero}) {
    require(one->shape(0) == rows && one->shape(1) == n, "scale and zero must be (rows, n)");
  }
  require(std::all_of(scale.data(), scale.data() + rows * n, [](double s) { return s > 0; }),
          "scales must be positive");
  require(low <= high, "low is above high");
  return {static_cast<int64_t>(rows),
          static_cast<int64_t>(n),
          w.data(),
          h.data(),
          scale.data(),
          zero.data(),
          low,
          high,
          nullptr};
}

nb::object round_gptq(const Matrix& w, const Matrix& factor, const Matrix& scale,
                      const Matrix& zero, double low, double high) {
  qtool::RoundingArgs args = arguments(w, factor, scale, zero, low, high);
  std::vector<double> q(w.size());
  args.q = q.data();
  {
    const nb::gil_scoped_release unlocked;
    qtool::round_gptq(args);
  }
  return owned(std::move(q), w.shape(0), w.shape(1));
}

nb::object round_descent(const Matrix& w, const Matrix& h, const Matrix& q, const Matrix& scale,
                         const Matrix& zero, double low, double high, int sweeps) {
  qtool::RoundingArgs args = arguments(w, h, scale, zero, low, high);
  require(q.shape(0) == w.shape(0) && q.shape(1) == w.shape(1), "q must be (rows, n)");
  std::vector<double> moved(q.data(), q.data() + q.size());
  args.q = moved.data();
  {
    const nb::gil_scoped_release unlocked;
    qtool::round_descent(args, sweeps);
  }
  return owned(std::move(moved), w.shape(0), w.shape(1));
}

nb::object round_scales(const Matrix& w, const Matrix& h, const Matrix& q, const Matrix& scale,
                        const Matrix& zero, const Groups& group, int64_t groups) {
  qtool::RoundingArgs args = arguments(w, h, scale, zero, 0.0, 0.0);
  require(q.shape(0) == w.shape(0) && q.shape(1) == w.shape(1), "q must be (rows, n)");
  require(group.shape(0) == w.shape(1), "there must be a group for each of n");
  require(std::all_of(group.data(), group.data() + group.size(),
                      [groups](int64_t one) { return one >= 0 && one < groups; }),
          "a group is out of range");
  std::vector<double> integers(q.data(), q.data() + q.size()), made(w.shape(0) * size_t(groups));
  args.q = integers.data();
  {
    const nb::gil_scoped_release unlocked;
    qtool::round_scales(args, group.data(), groups, made.data());
  }
  return owned(std::move(made), w.shape(0), static_cast<size_t>(groups));
}

nb::object row_errors(const Matrix& differences, const Matrix& h) {
  const size_t rows = differences.shape(0), n = differences.shape(1);
  require(h.shape(0) == n && h.shape(1) == n, "h must be (n, n)");
  auto* const kept = new std::vector<double>(rows);
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<double>*>(p); });
  {
    const nb::gil_scoped_release unlocked;
    qtool::row_errors(differences.data(), h.data(), static_cast<int64_t>(rows),
                      static_cast<int64_t>(n), kept->data());
  }
  return nb::cast(nb::ndarray<nb::numpy, double>(kept->data(), {rows}, owner));
}

}  // namespace

void bind_rounding(nb::module_& module) {
  module.def("inverse_factor", &inverse_factor, "h"_a.noconvert());
  module.def("solve_rows", &solve_rows, "factor"_a.noconvert(), "values"_a.noconvert());
  module.def("round_gptq", &round_gptq, "w"_a.noconvert(), "factor"_a.noconvert(),
             "scale"_a.noconvert(), "zero"_a.noconvert(), nb::kw_only(), "low"_a, "high"_a);
  module.def("round_descent", &round_descent, "w"_a.noconvert(), "h"_a.noconvert(),
             "q"_a.noconvert(), "scale"_a.noconvert(), "zero"_a.noconvert(), nb::kw_only(), "low"_a,
             "high"_a, "sweeps"_a = 32);
  module.def("round_scales", &round_scales, "w"_a.noconvert(), "h"_a.noconvert(), "q"_a.noconvert(),
             "scale"_a.noconvert(), "zero"_a.noconvert(), "group"_a.noconvert(), nb::kw_only(),
             "groups"_a);
  module.def("row_errors", &row_errors, "differences"_a.noconvert(), "h"_a.noconvert());
}
