#include "depthwise/depthwise.h"

#include <algorithm>
#include <cstring>

#include "depthwise/packed.h"
#include "lookup/lookup.h"

namespace qtool {
namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Scratch memory: pointers to taps, then the copy of a block, or a row of zero points and the ends
// of a line.
struct Scratch {
  size_t copy_at, end_at, bytes;

  Scratch(const ConvArgs& a, const PackedDepthwise& p) {
    copy_at = aligned(size_t(p.n_quads) * 4 * sizeof(void*));
    end_at = copy_at + aligned(p.direct ? size_t(a.in_w * a.x_pitch) + kOverread : 0);
    const int32_t n = std::max({p.left, p.right, p.advance});
    const int64_t width = int64_t{n - 1} * a.stride_w + p.plan.window_w;
    const size_t end = size_t(width * a.kernel_h * a.in_c);
    bytes = end_at + aligned((p.direct ? end : p.plan.copy_bytes) + kOverread);
  }
};

class Runner {
 public:
  Runner(const ConvCall& call, const DepthwiseKernels& kernels)
      : call_(call),
        a_(*call.args),
        p_(*reinterpret_cast<const PackedDepthwise*>(call.packed)),
        kernels_(kernels) {
    const Scratch scratch(a_, p_);
    taps_ = reinterpret_cast<const uint8_t**>(call.scratch);
    copy_ = call.scratch + scratch.copy_at;
    end_ = call.scratch + scratch.end_at;
  }

  void run(int64_t begin, int64_t end) noexcept {
    if (p_.direct) std::memset(copy_, a_.x_zero_point, size_t(a_.in_w * a_.x_pitch));
    for (int64_t unit = begin; unit < end; ++unit) {
      p_.direct ? run_direct(unit) : run_copied(unit);
    }
  }

 private:
  void run_copied(int64_t unit) noexcept {
    const ConvPlan& plan = p_.plan;
    const ConvBlock block = open_block(call_, plan, unit, copy_);
    for (int32_t line = 0; line < block.n_lines; ++line) {
      const uint8_t* x = block.x + line * block.line_step;
      point_taps(plan.pitch, [&](int32_t row) {
        return x + int64_t{row} * a_.dilation_h * plan.row_w * plan.pitch;
      });
      const int64_t pixel = block.first_pixel + int64_t{line} * a_.out_w;
      run_outputs(pixel, a_.out_w, plan.step, 0);
      look_up_line(pixel);
    }
  }

  void run_direct(int64_t unit) noexcept {
    const int64_t per_image = (a_.out_h + p_.plan.block_lines - 1) / p_.plan.block_lines;
    const int64_t image = unit / per_image, first = unit % per_image * p_.plan.block_lines;
    const int64_t last = std::min<int64_t>(first + p_.plan.block_lines, a_.out_h);
    for (int64_t line = first; line < last; ++line) {
      const int64_t pixel = (image * a_.out_h + line) * a_.out_w;
      run_middle(image, line, pixel);
      if (p_.left > 0) run_end(image, line, pixel, 0, p_.left);
      if (p_.right > 0) run_end(image, line, pixel, a_.out_w - p_.right, p_.right);
      look_up_line(pixel);
    }
  }

  // The row of x that a row of the kernel sees; of zero points outside.
  const uint8_t* row_of_x(int64_t image, int64_t line, int32_t row) const noexcept {
    const int64_t y = line * a_.stride_h - a_.pad_top + int64_t{row} * a_.dilation_h;
    if (y < 0 || y >= a_.in_h) return copy_;
    return call_.x + (image * a_.in_h + y) * a_.in_w * a_.x_pitch;
  }

  void run_middle(int64_t image, int64_t line, int64_t pixel) noexcept {
    point_taps(a_.x_pitch, [&](int32_t row) { return row_of_x(image, line, row); });
    const int64_t column = int64_t{p_.left} * a_.stride_w - a_.pad_left;
    run_outputs(pixel + p_.left, a_.out_w - p_.left - p_.right, a_.stride_w * a_.x_pitch,
                column * a_.x_pitch);
  }

  // Outputs from `first` on, n or as many as are made together, from a copy with zero points.
  void run_end(int64_t image, int64_t line, int64_t pixel, int32_t first, int32_t n) noexcept {
    n = std::max(n, p_.advance);
    first = std::min(first, a_.out_w - n);
    const int64_t column = int64_t{first} * a_.stride_w - a_.pad_left;
    const int64_t width = int64_t{n - 1} * a_.stride_w + p_.plan.window_w, pitch = a_.in_c;
    for (int32_t row = 0; row < a_.kernel_h; ++row) {
      const uint8_t* x = row_of_x(image, line, row);
      uint8_t* to = end_ + row * width * pitch;
      if (x == copy_) {
        std::memset(to, a_.x_zero_point, size_t(width * pitch));
      } else {
        copy_columns(x, column, width, to);
      }
    }
    point_taps(pitch, [&](int32_t row) { return end_ + row * width * pitch; });
    run_outputs(pixel + first, n, a_.stride_w * pitch, 0);
  }

  void copy_columns(const uint8_t* x, int64_t column, int64_t width, uint8_t* to) const noexcept {
    const int64_t left = std::clamp<int64_t>(-column, 0, width);
    const int64_t inside = std::clamp<int64_t>(a_.in_w - column, 0, width) - left;
    const int64_t pitch = a_.in_c;
    std::memset(to, a_.x_zero_point, size_t(left * pitch));
    for (int64_t i = 0; i < inside; ++i) {
      std::memcpy(to + (left + i) * pitch, x + (column + left + i) * a_.x_pitch, size_t(pitch));
    }
    std::memset(to + (left + inside) * pitch, a_.x_zero_point,
                size_t((width - left - inside) * pitch));
  }

  template <typename RowOf>
  void point_taps(int64_t pitch, const RowOf& row_of) noexcept {
    const DepthwiseTap* taps = p_.taps();
    for (int32_t i = 0; i < p_.n_quads * 4; ++i) {
      taps_[i] = row_of(taps[i].row) + int64_t{taps[i].column} * a_.dilation_w * pitch;
    }
  }

  // n outputs from `pixel` of y on, all channels. Taps are `at` bytes from where they point.
  void run_outputs(int64_t pixel, int32_t n, int64_t step, int64_t at) noexcept {
    const Epilogue& e = a_.epilogue;
    const int64_t item = e.float_output ? 4 : 1;
    DepthwiseLine l{};
    l.taps = taps_;
    l.step = step;
    l.n = n;
    l.advance = p_.advance;
    l.n_quads = p_.n_quads;
    l.epilogue = &e;
    l.has_float_bias = e.float_bias != nullptr;
    l.bounded = p_.bounded;
    l.y_pitch = a_.y_pitch * item;
    l.residual_pitch = a_.residual_pitch;
    for (int32_t block = 0; block < p_.n_blocks; ++block) {
      const int64_t first = int64_t{block} * p_.widest;
      const int32_t* constants = p_.constants(block);
      l.at = at + first;
      l.w = p_.weights(block);
      l.bias = constants;
      l.scale = reinterpret_cast<const float*>(constants + kWideChannels);
      l.plain = constants + 2 * kWideChannels;
      l.channels = p_.channels_of(block);
      l.y = static_cast<uint8_t*>(call_.y) + (pixel * a_.y_pitch + first) * item;
      if (call_.residual != nullptr) {
        l.residual = call_.residual + pixel * a_.residual_pitch + first;
      }
      const bool narrow = l.channels <= kNarrowChannels;
      (narrow ? kernels_.narrow : kernels_.wide)[p_.run - 1](l);
    }
  }

  void look_up_line(int64_t pixel) const noexcept {
    if (a_.epilogue.table == nullptr) return;
    uint8_t* y = static_cast<uint8_t*>(call_.y) + pixel * a_.y_pitch;
    const bool contiguous = a_.y_pitch == a_.out_c;
    look_up({a_.epilogue.table, y, contiguous ? 1 : a_.out_w,
             contiguous ? int64_t{a_.out_w} * a_.out_c : a_.out_c, a_.y_pitch});
  }

  const ConvCall& call_;
  const ConvArgs& a_;
  const PackedDepthwise& p_;
  const DepthwiseKernels& kernels_;
  const uint8_t** taps_;
  uint8_t *copy_, *end_;
};

constexpr int32_t kMostTaps = 1 << 12;  // larger kernels pack slowly, and are rare

#if defined(__x86_64__)
bool has_avx512vnni() noexcept { return __builtin_cpu_supports("avx512vnni"); }
#endif

[[maybe_unused]] bool always() noexcept { return true; }

template <const DepthwiseKernels& kernels>
struct Depthwise {
  static bool supports(const ConvArgs& a) noexcept {
    return a.groups == a.in_c && a.in_c == a.out_c && a.depth() <= kMostTaps &&
           plan_fits(a, plan_conv(a, 0));
  }

  static size_t packed_bytes(const ConvArgs& a) noexcept {
    return PackedDepthwise::layout(a, kernels).bytes;
  }

  static void pack(const ConvArgs& a, uint8_t* packed) noexcept {
    pack_depthwise(a, PackedDepthwise::layout(a, kernels), packed);
  }

  static size_t scratch_bytes(const ConvArgs& a) noexcept {
    return Scratch(a, PackedDepthwise::layout(a, kernels)).bytes;
  }

  static int64_t units(const ConvArgs& a) noexcept { return plan_conv(a, 0).n_blocks; }

  // Interleaving and multiplying, then the epilogue, for each block of channels.
  static double cycles(const ConvArgs& a) noexcept {
    const PackedDepthwise p = PackedDepthwise::layout(a, kernels);
    const double per_run = p.n_quads * (8.0 + 4.0 * p.run) / 2 + 14.0 * p.run;
    const double per_output = per_run / p.advance * p.n_blocks + 4;
    return double(a.pixels()) * per_output * (kernels.pairs ? 1.5 : 1);
  }

  static void run(const ConvCall& call, int64_t begin, int64_t end) noexcept {
    Runner(call, kernels).run(begin, end);
  }
};

template <const DepthwiseKernels& kernels>
constexpr ConvVariant variant(const char* name, Isa isa, bool (*available)() noexcept) {
  using D = Depthwise<kernels>;
  return {name,     isa,       available, D::supports, D::packed_bytes, D::pack, D::scratch_bytes,
          D::units, D::cycles, D::run};
}

}  // namespace

#if defined(__x86_64__)
const ConvVariant depthwise_64__avx512vnni =
    variant<kDepthwiseAvx512Vnni>("depthwise_64__avx512vnni", Isa::kAvx512, has_avx512vnni);
const ConvVariant depthwise_32__avxvnni =
    variant<kDepthwiseAvxVnni>("depthwise_32__avxvnni", Isa::kAvxVnni, always);
const ConvVariant depthwise_32__avx2 =
    variant<kDepthwiseAvx2>("depthwise_32__avx2", Isa::kAvx2, always);
#elif defined(__aarch64__)
const ConvVariant depthwise_16__neoni8mm =
    variant<kDepthwiseNeonI8mm>("depthwise_16__neoni8mm", Isa::kNeon, has_arm_i8mm);
const ConvVariant depthwise_16__neondot =
    variant<kDepthwiseNeonDot>("depthwise_16__neondot", Isa::kNeon, has_arm_dotprod);
const ConvVariant depthwise_16__neon =
    variant<kDepthwiseNeon>("depthwise_16__neon", Isa::kNeon, always);
#endif

}  // namespace qtool
