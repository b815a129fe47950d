// The only file, with bindings_runtime.cpp, that knows Python: checks every argument, releases the
// GIL, calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "gram/gram.h"
#include "histogram/histogram.h"
#include "isa.h"

namespace nb = nanobind;
using namespace nb::literals;
using qtool::Histogram;

namespace {

using Float32Array = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Float32Volume = nb::ndarray<const float, nb::ndim<5>, nb::c_contig, nb::device::cpu>;
using Int64Vector = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <typename Array>
void require_aligned(const Array& array) {
  require(reinterpret_cast<uintptr_t>(array.data()) % sizeof(*array.data()) == 0,
          "array is not aligned");
}

// A new numpy array that owns a copy of the values.
template <typename T>
nb::object copied(const T* values, std::initializer_list<size_t> shape) {
  size_t n = 1;
  for (size_t dim : shape) n *= dim;
  T* copy = new T[n > 0 ? n : 1];
  std::copy(values, values + n, copy);
  nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(copy, shape, owner));
}

bool histogram_update(Histogram& histogram, const Float32Array& x) {
  require_aligned(x);
  const nb::gil_scoped_release unlocked;
  return histogram.update(x.data(), x.size());
}

// (minimum, maximum, count, n_zeros, exponent, first, counts): the fields of TensorStatistics.
nb::tuple histogram_state(Histogram& histogram) {
  qtool::HistogramState state = histogram.state();
  int64_t* const end = state.counts + 2 * qtool::kBins;
  state.counts[qtool::kBins] += state.n_zeros;
  const auto counted = [](int64_t count) { return count != 0; };
  int64_t* const first = std::find_if(state.counts, end, counted);
  int64_t* last = end;
  while (last > first && last[-1] == 0) --last;
  const bool empty = state.count == 0;
  const int64_t lowest = empty ? 0 : first - state.counts - qtool::kBins;
  return nb::make_tuple(empty ? 0.0f : qtool::minimum(state.extremes),
                        empty ? 0.0f : qtool::maximum(state.extremes), state.count, state.n_zeros,
                        state.exponent, lowest, copied(first, {static_cast<size_t>(last - first)}));
}

void histogram_add(Histogram& histogram, double minimum, double maximum, int64_t n_zeros,
                   int exponent, int64_t first, const Int64Vector& counts) {
  const auto is_float = [](double x) {
    return std::isfinite(x) && std::abs(x) <= std::numeric_limits<float>::max() &&
           double{static_cast<float>(x)} == x;
  };
  require(is_float(minimum) && is_float(maximum), "minimum and maximum must be float32 values");
  const qtool::Extremes extremes =
      qtool::between(static_cast<float>(minimum), static_cast<float>(maximum));
  require(exponent == qtool::exponent_for(extremes), "exponent does not fit the range");
  require(minimum <= maximum, "minimum is above maximum");

  require_aligned(counts);
  const auto n = static_cast<int64_t>(counts.size());
  require(first >= -qtool::kBins && first <= qtool::kBins && n <= qtool::kBins - first,
          "bins are out of range");
  const int64_t* values = counts.data();
  require(std::all_of(values, values + n, [](int64_t c) { return c >= 0; }), "a count is negative");
  const bool has_zero = first <= 0 && -first < n;
  require(n_zeros >= 0 && n_zeros <= (has_zero ? values[-first] : 0), "more zeros than in bin 0");

  std::vector<int64_t> without_zeros(values, values + n);
  if (has_zero) without_zeros[static_cast<size_t>(-first)] -= n_zeros;
  const bool added = histogram.add(extremes, n_zeros, static_cast<int>(first), without_zeros.data(),
                                   without_zeros.size());
  if (!added) throw std::overflow_error("the sum of the counts passes 2**63 - 1");
}

using qtool::Gram;
using Int3 = std::array<int64_t, 3>;  // depth, height, width

constexpr int64_t kMost = int64_t{1} << 40;

void gram_init(Gram* self, int64_t groups, int64_t depth, const std::string& isa) {
  require(groups > 0 && groups < kMost && depth > 0 && depth < (1 << 24), "sizes are out of range");
  if (Gram::state_bytes(groups, depth) > 0x1p46) throw std::bad_alloc();
  new (self) Gram(groups, depth, isa.c_str());
}

// Keeps every index that the kernels compute far from overflow.
void check(const Gram& gram, const qtool::Patches& patches) {
  double depth = double(patches.channels), positions = double(patches.samples);
  for (int i = 0; i < 3; ++i) {
    for (int64_t value : {patches.kernel[i], patches.stride[i], patches.dilation[i]}) {
      require(value > 0 && value < kMost, "kernel, strides and dilations must be positive");
    }
    require(patches.pad[i] >= 0 && patches.pad[i] < kMost, "pads must not be negative");
    require(patches.output[i] >= 0, "output sizes must not be negative");
    depth *= double(patches.kernel[i]);
    positions *= double(patches.output[i]);
    require(double(patches.output[i]) * double(patches.stride[i]) < 0x1p53 &&
                double(patches.kernel[i]) * double(patches.dilation[i]) < 0x1p53,
            "windows are out of range");
  }
  require(depth == double(gram.depth()), "channels and kernel do not give the depth");
  require(positions < 0x1p53, "too many positions");
}

bool gram_update(Gram& gram, const Float32Volume& x, Int3 kernel, Int3 strides, Int3 dilations,
                 Int3 pads, Int3 output) {
  require_aligned(x);
  qtool::Patches patches{};
  patches.input = x.data();
  patches.samples = static_cast<int64_t>(x.shape(0));
  patches.groups = gram.groups();
  patches.channels = static_cast<int64_t>(x.shape(1)) / gram.groups();
  require(
      patches.channels * gram.groups() == static_cast<int64_t>(x.shape(1)) && patches.channels > 0,
      "channels do not divide into the groups");
  for (size_t i = 0; i < 3; ++i) patches.size[i] = static_cast<int64_t>(x.shape(i + 2));
  std::copy(kernel.begin(), kernel.end(), patches.kernel);
  std::copy(strides.begin(), strides.end(), patches.stride);
  std::copy(dilations.begin(), dilations.end(), patches.dilation);
  std::copy(pads.begin(), pads.end(), patches.pad);
  std::copy(output.begin(), output.end(), patches.output);
  check(gram, patches);
  const nb::gil_scoped_release unlocked;
  return gram.update(patches);
}

// (count, values): the fields of GramStatistics.
nb::tuple gram_state(const Gram& gram) {
  const auto groups = static_cast<size_t>(gram.groups()), size = static_cast<size_t>(gram.size());
  const size_t pairs = size * (size + 1) / 2;
  auto* values = new uint64_t[groups * pairs * 2];
  const nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<uint64_t*>(p); });
  gram.read(values);
  return nb::make_tuple(
      gram.count(), nb::cast(nb::ndarray<nb::numpy, uint64_t>(values, {groups, pairs, 2}, owner)));
}

}  // namespace

void bind_runtime(nb::module_& module);   // bindings_runtime.cpp
void bind_compress(nb::module_& module);  // bindings_compress.cpp
void bind_kernels(nb::module_& module);   // bindings_kernels.cpp
void bind_peak(nb::module_& module);      // bindings_peak.cpp
void bind_rounding(nb::module_& module);  // bindings_rounding.cpp
void bind_codecs(nb::module_& module);    // bindings_codecs.cpp

NB_MODULE(_native, module) {
  bind_runtime(module);
  bind_compress(module);
  bind_kernels(module);
  bind_peak(module);
  bind_rounding(module);
  bind_codecs(module);
  module.doc() = "qtool's native kernels; used through qtool.statistics.";

  module.def("isas", [] {  // name -> whether this machine can run it
    nb::dict names;
    for (qtool::Isa isa :
         {qtool::Isa::kScalar, qtool::Isa::kNeon, qtool::Isa::kAvx2, qtool::Isa::kAvx512}) {
      names[qtool::isa_name(isa)] = qtool::supports(isa);
    }
    return names;
  });

  // noconvert: without it nanobind would quietly cast or copy an array of another type.
  nb::class_<Histogram>(module, "Histogram")
      .def(
          "__init__",
          [](Histogram* self, const std::string& isa) { new (self) Histogram(isa.c_str()); },
          "isa"_a = "")
      .def_prop_ro("isa", [](const Histogram& self) { return qtool::isa_name(self.isa()); })
      .def("update", &histogram_update, "x"_a.noconvert())
      .def("state", &histogram_state)
      .def("add", &histogram_add, nb::kw_only(), "minimum"_a, "maximum"_a, "n_zeros"_a,
           "exponent"_a, "first"_a, "counts"_a.noconvert());

  nb::class_<Gram>(module, "Gram")
      .def("__init__", &gram_init, "groups"_a, "depth"_a, "isa"_a = "")
      .def("update", &gram_update, "x"_a.noconvert(), nb::kw_only(), "kernel"_a, "strides"_a,
           "dilations"_a, "pads"_a, "output"_a)
      .def("state", &gram_state)
      .def_static("state_bytes", &Gram::state_bytes, "groups"_a, "depth"_a)
      .def_static("scratch_bytes", &Gram::scratch_bytes, "depth"_a);
  module.attr("GRAM_EXPONENT") = qtool::kGramExponent;
}
