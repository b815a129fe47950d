// The definition: one output at a time, any shape. Packed is w as it comes.
#include <cstring>

#include "conv/conv.h"

namespace qtool {
namespace {

bool available() noexcept { return true; }

bool supports(const ConvArgs&) noexcept { return true; }

size_t packed_bytes(const ConvArgs& a) noexcept { return size_t(a.out_c) * size_t(a.depth()); }

void pack(const ConvArgs& a, uint8_t* packed) noexcept {
  std::memcpy(packed, a.w, packed_bytes(a));
}

size_t scratch_bytes(const ConvArgs&) noexcept { return 0; }

int64_t units(const ConvArgs& a) noexcept { return a.pixels(); }

double cycles(const ConvArgs& a) noexcept {
  return 4.0 * double(a.pixels()) * a.out_c * (a.depth() + 4);
}

struct Pixel {
  int64_t n, p, q;
};

uint32_t sum(const ConvCall& call, const Pixel& at, int32_t o) noexcept {
  const ConvArgs& a = *call.args;
  const int32_t depth = a.in_c / a.groups, first = o / (a.out_c / a.groups) * depth;
  const auto* w = reinterpret_cast<const int8_t*>(call.packed) + int64_t{o} * a.depth();
  const auto zero = uint32_t(a.x_zero_point);
  uint32_t acc = uint32_t(a.epilogue.bias[o]);
  for (int32_t i = 0; i < a.kernel_h; ++i) {
    const int64_t row = at.p * a.stride_h + int64_t{i} * a.dilation_h - a.pad_top;
    for (int32_t j = 0; j < a.kernel_w; ++j, w += depth) {
      const int64_t column = at.q * a.stride_w + int64_t{j} * a.dilation_w - a.pad_left;
      const bool inside = row >= 0 && row < a.in_h && column >= 0 && column < a.in_w;
      const uint8_t* x =
          inside ? call.x + ((at.n * a.in_h + row) * a.in_w + column) * a.x_pitch + first : nullptr;
      for (int32_t k = 0; k < depth; ++k) {
        acc += (x == nullptr ? zero : uint32_t{x[k]}) * uint32_t(int32_t{w[k]});
      }
    }
  }
  return acc;
}

void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
  const ConvArgs& a = *call.args;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const Pixel at{pixel / a.out_w / a.out_h, pixel / a.out_w % a.out_h, pixel % a.out_w};
    for (int32_t o = 0; o < a.out_c; ++o) {
      const auto acc = int32_t(sum(call, at, o));
      if (a.epilogue.float_output) {
        static_cast<float*>(call.y)[pixel * a.y_pitch + o] = finish_float(a.epilogue, acc, o);
      } else {
        const bool add = a.epilogue.has_residual;
        const uint8_t other = add ? call.residual[pixel * a.residual_pitch + o] : uint8_t{0};
        static_cast<uint8_t*>(call.y)[pixel * a.y_pitch + o] = finish(a.epilogue, acc, o, other);
      }
    }
  }
}

}  // namespace

const ConvVariant conv_any_1x1__scalar = {
    "conv_any_1x1__scalar", Isa::kScalar, available, supports, packed_bytes, pack,
    scratch_bytes,          units,        cycles,    run};

}  // namespace qtool
