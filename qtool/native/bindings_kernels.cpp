// The kernels one by one, as the tests call them; the runtime goes through Session.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "conv/conv.h"
#include "lookup/lookup.h"
#include "runtime/memory.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using qtool::ConvArgs;
using qtool::ConvVariant;
using qtool::Memory;

template <typename T, size_t n>
using Array = nb::ndarray<const T, nb::ndim<n>, nb::c_contig, nb::device::cpu>;
template <typename T, size_t n>
using MaybeArray = std::optional<Array<T, n>>;

constexpr uint8_t kUntouched = 170;  // of bytes of y that a kernel must not write

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

const ConvVariant& variant_named(const std::string& name) {
  for (int i = 0; i < qtool::n_conv_variants(); ++i) {
    const ConvVariant& variant = *qtool::conv_variants()[i];
    if (name == variant.name) return variant;
  }
  throw std::invalid_argument("no convolution variant '" + name + "'");
}

nb::dict conv_variants() {
  nb::dict names;
  for (int i = 0; i < qtool::n_conv_variants(); ++i) {
    const ConvVariant& variant = *qtool::conv_variants()[i];
    names[variant.name] = qtool::supports(variant.isa) && variant.available();
  }
  return names;
}

// Pixels pitch elements apart, in memory that may be read beyond its end.
template <typename T>
Memory spread(const Array<T, 4>& x, int64_t pitch) {
  const size_t channels = x.shape(3), pixels = x.shape(0) * x.shape(1) * x.shape(2);
  Memory memory(pixels * size_t(pitch));
  for (size_t i = 0; i < pixels; ++i) {
    std::memcpy(memory.data() + i * size_t(pitch), x.data() + i * channels, channels);
  }
  return memory;
}

struct Geometry {
  std::array<int, 2> strides, dilations;
  std::array<int, 4> pads;  // top, left, bottom, right
  int groups, x_zero_point, x_gap, y_gap;
};

int32_t output_size(size_t size, size_t kernel, int stride, int dilation, int pads) {
  const int64_t room = int64_t(size) + pads - int64_t(kernel - 1) * dilation - 1;
  require(room >= 0, "the kernel is larger than the padded image");
  return int32_t(room / stride) + 1;
}

ConvArgs arguments(const Array<uint8_t, 4>& x, const Array<int8_t, 4>& w, const Geometry& g) {
  ConvArgs a{};
  a.n = int32_t(x.shape(0)), a.in_h = int32_t(x.shape(1)), a.in_w = int32_t(x.shape(2));
  a.in_c = int32_t(x.shape(3)), a.out_c = int32_t(w.shape(0));
  a.kernel_h = int32_t(w.shape(1)), a.kernel_w = int32_t(w.shape(2));
  a.stride_h = g.strides[0], a.stride_w = g.strides[1];
  a.dilation_h = g.dilations[0], a.dilation_w = g.dilations[1];
  a.pad_top = g.pads[0], a.pad_left = g.pads[1];
  a.groups = g.groups;
  require(a.groups > 0 && a.in_c % a.groups == 0 && a.out_c % a.groups == 0 &&
              int32_t(w.shape(3)) == a.in_c / a.groups,
          "w and groups do not fit x");
  a.out_h =
      output_size(x.shape(1), w.shape(1), g.strides[0], g.dilations[0], g.pads[0] + g.pads[2]);
  a.out_w =
      output_size(x.shape(2), w.shape(2), g.strides[1], g.dilations[1], g.pads[1] + g.pads[3]);
  a.x_pitch = a.in_c + g.x_gap, a.y_pitch = a.residual_pitch = a.out_c + g.y_gap;
  a.x_zero_point = g.x_zero_point;
  a.threads = 1;
  return a;
}

template <typename T>
std::vector<T> padded(const Array<T, 1>& values, int32_t n) {
  require(int32_t(values.shape(0)) == n, "bias and scale need one value per output channel");
  std::vector<T> copy(size_t(n) + qtool::kChannelPad);
  std::copy(values.data(), values.data() + n, copy.begin());
  return copy;
}

void fold_zero_point(const ConvArgs& a, std::vector<int32_t>& bias) {
  for (int32_t o = 0; o < a.out_c; ++o) {
    uint32_t sum = 0;
    for (int32_t k = 0; k < a.depth(); ++k) sum += uint32_t(int32_t{a.w[o * a.depth() + k]});
    bias[size_t(o)] = int32_t(uint32_t(bias[size_t(o)]) - uint32_t(a.x_zero_point) * sum);
  }
}

// Runs all units in `parts` calls, the last part first: no part may need another.
void run_parts(const ConvVariant& variant, qtool::ConvCall call, int parts) {
  const int64_t units = variant.units(*call.args);
  Memory scratch(variant.scratch_bytes(*call.args));
  call.scratch = scratch.data();
  int64_t held = -1;
  call.held = &held;
  for (int64_t part = parts; part-- > 0;) {
    variant.run(call, units * part / parts, units * (part + 1) / parts);
  }
}

// y (n, out_h, out_w, out_c + y_gap), uint8 or float32; what lies in the gap is untouched.
nb::object conv(const std::string& name, const Array<uint8_t, 4>& x, const Array<int8_t, 4>& w,
                const Array<int32_t, 1>& bias, const Array<float, 1>& scale,
                std::array<int, 2> strides, std::array<int, 2> dilations, std::array<int, 4> pads,
                int groups, int x_zero_point, std::array<int, 3> y_limits, bool float_output,
                const MaybeArray<float, 1>& float_bias, const MaybeArray<uint8_t, 1>& table,
                const MaybeArray<uint8_t, 4>& residual, std::array<int, 4> sum_limits,
                std::array<float, 2> ratios, int x_gap, int y_gap, int parts, int threads) {
  const ConvVariant& variant = variant_named(name);
  require(qtool::supports(variant.isa) && variant.available(), "this machine cannot run it");
  ConvArgs a = arguments(x, w, {strides, dilations, pads, groups, x_zero_point, x_gap, y_gap});
  a.threads = threads;
  a.w = w.data();
  std::vector<int32_t> folded = padded(bias, a.out_c);
  fold_zero_point(a, folded);
  const std::vector<float> scales = padded(scale, a.out_c);
  std::vector<float> float_biases;
  qtool::Epilogue& e = a.epilogue;
  e.bias = folded.data(), e.scale = scales.data();
  e.y_zero_point = y_limits[0], e.y_min = y_limits[1], e.y_max = y_limits[2];
  e.float_output = float_output;
  if (float_bias) {
    float_biases = padded(*float_bias, a.out_c);
    e.float_bias = float_biases.data();
  }
  if (table) e.table = table->data();
  Memory other;
  if (residual) {
    e.has_residual = true;
    e.residual_zero_point = sum_limits[0], e.sum_zero_point = sum_limits[1];
    e.sum_min = sum_limits[2], e.sum_max = sum_limits[3];
    e.y_ratio = ratios[0], e.residual_ratio = ratios[1];
    other = spread(*residual, a.residual_pitch);
  }
  require(variant.supports(a), "the variant does not support this");

  const Memory input = spread(x, a.x_pitch);
  Memory packed(variant.packed_bytes(a));
  variant.pack(a, packed.data());
  const size_t size = size_t(a.pixels()) * size_t(a.y_pitch), item = float_output ? 4 : 1;
  auto* y = new uint8_t[size * item];
  std::memset(y, kUntouched, size * item);
  nb::capsule owner(y, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
  run_parts(
      variant,
      {&a, packed.data(), input.data(), residual ? other.data() : nullptr, y, nullptr, nullptr},
      parts);
  const size_t shape[] = {size_t(a.n), size_t(a.out_h), size_t(a.out_w), size_t(a.y_pitch)};
  const auto dtype = float_output ? nb::dtype<float>() : nb::dtype<uint8_t>();
  return nb::cast(nb::ndarray<nb::numpy>(y, 4, shape, owner, nullptr, dtype));
}

nb::dict look_up_variants() {
  nb::dict names;
  for (int i = 0; i < qtool::n_look_up_variants(); ++i) {
    const qtool::LookUpVariant& variant = qtool::look_up_variants()[i];
    names[variant.name] = qtool::supports(variant.isa) && variant.available();
  }
  return names;
}

// Looks up the first n bytes of each row of y in place.
void look_up(const std::string& name, const Array<uint8_t, 1>& table,
             const nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& y, int64_t n) {
  require(table.shape(0) == 256 && n >= 0 && n <= int64_t(y.shape(1)), "wrong sizes");
  for (int i = 0; i < qtool::n_look_up_variants(); ++i) {
    const qtool::LookUpVariant& variant = qtool::look_up_variants()[i];
    if (name != variant.name) continue;
    require(qtool::supports(variant.isa) && variant.available(), "this machine cannot run it");
    variant.run({table.data(), y.data(), int64_t(y.shape(0)), n, int64_t(y.shape(1))});
    return;
  }
  throw std::invalid_argument("no table variant '" + name + "'");
}

}  // namespace

void bind_kernels(nb::module_& module) {
  module.def("conv_variants", &conv_variants);  // name -> whether this machine can run it
  module.def("conv", &conv, "variant"_a, "x"_a.noconvert(), "w"_a.noconvert(), "bias"_a.noconvert(),
             "scale"_a.noconvert(), nb::kw_only(), "strides"_a = std::array<int, 2>{1, 1},
             "dilations"_a = std::array<int, 2>{1, 1}, "pads"_a = std::array<int, 4>{0, 0, 0, 0},
             "groups"_a = 1, "x_zero_point"_a = 0, "y_limits"_a = std::array<int, 3>{0, 0, 255},
             "float_output"_a = false, "float_bias"_a.noconvert() = nb::none(),
             "table"_a.noconvert() = nb::none(), "residual"_a.noconvert() = nb::none(),
             "sum_limits"_a = std::array<int, 4>{0, 0, 0, 255},
             "ratios"_a = std::array<float, 2>{1.0f, 1.0f}, "x_gap"_a = 0, "y_gap"_a = 0,
             "parts"_a = 1, "threads"_a = 1);
  module.def("look_up_variants", &look_up_variants);
  module.def("look_up", &look_up, "variant"_a, "table"_a.noconvert(), "y"_a.noconvert(), "n"_a);
}
