// ConvFloat: y = bias + the convolution of x with constant weights, float32.
//
// inputs   x (N, D, H, W, C); w (O, kD, kH, kW, C / groups) and scale and zero point as
// WeightsReader
//          has them; bias (O,), may be absent
// ints     of Patches; of WeightsReader
#include <vector>

#include "gemm_f32/weights.h"
#include "ops/patches.h"
#include "ops/rows.h"

namespace qtool {
namespace {

class ConvFloat final : public Op {
 public:
  explicit ConvFloat(const OpView& op)
      : x_(op.input(0).id),
        y_(op.output(0)),
        patches_(op, 0, op.input(0), y_),
        gemm_(select_gemm_f32(op.isa)) {
    op.require(op.input(0).dtype == DType::kFloat32 && y_.dtype == DType::kFloat32,
               "it is not float32");
    const Patches& p = patches_;
    const WeightsReader reader(op, 1, 2, 3, Patches::kInts, p.out_c, p.depth());
    if (op.has_input(4)) {
      const auto* bias = op.constant<float>(4, DType::kFloat32, p.out_c);
      bias_.assign(bias, bias + p.out_c);
    }
    depthwise_ = p.group_c() == 1 && p.out_c == p.in_c && p.groups > 1;
    if (depthwise_) {
      pack_depthwise(op);
      return;
    }
    const int64_t columns = p.out_c / p.groups;
    for (int64_t g = 0; g < p.groups; ++g) {
      weights_.push_back(reader.packed(gemm_, g * columns, columns));
    }
  }

  const char* kernel() const noexcept override { return isa_name(gemm_.isa); }
  size_t packed_bytes() const noexcept override {
    size_t total = packed_.size();
    for (const WeightsF32& weights : weights_) total += weights.packed_bytes();
    return total;
  }
  size_t scratch_bytes() const noexcept override {
    if (depthwise_) return size_t(patches_.depth()) * sizeof(float*);
    return direct() ? 0 : size_t(kBlock * patches_.depth()) * sizeof(float);
  }

  void run(const Run& run) const noexcept override {
    const int64_t blocks = (patches_.pixels() + kBlock - 1) / kBlock;
    const int64_t work = patches_.depth() * patches_.out_c * kBlock;
    run.pool->split(blocks, 1 + 4 * kLeastElements / work,
                    [&](int64_t begin, int64_t end, int thread) {
                      const int64_t last = std::min(end * kBlock, patches_.pixels());
                      for (int64_t i = begin * kBlock; i < last; i += kBlock) {
                        run_block(run, i, std::min(kBlock, last - i), thread);
                      }
                    });
  }

 private:
  static constexpr int64_t kBlock = 48;  // pixels whose windows are laid out at a time

  bool direct() const noexcept { return patches_.is_pointwise(); }

  void pack_depthwise(const OpView& op) {  // [tap][channel], floats
    op.require(op.integer(Patches::kInts, 4, 32) == 32, "depthwise weights are not float32");
    const auto* w = op.constant<float>(1, DType::kFloat32, patches_.out_c * patches_.depth());
    const int64_t taps = patches_.depth(), channels = patches_.out_c;
    packed_ = Memory(size_t(taps * channels) * sizeof(float));
    auto* to = reinterpret_cast<float*>(packed_.data());
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) to[tap * channels + c] = w[c * taps + tap];
    }
  }

  void run_block(const Run& run, int64_t first, int64_t n, int thread) const noexcept {
    const auto* x = run.at<const float>(x_);
    float* y = run.at<float>(y_.id) + first * y_.pitch;
    uint8_t* scratch = run.scratch + size_t(thread) * run.scratch_pitch;
    if (depthwise_) {
      auto** taps = reinterpret_cast<const float**>(scratch);
      for (int64_t i = 0; i < n; ++i) run_depthwise(x, first + i, y + i * y_.pitch, taps);
      return;
    }
    auto* rows = reinterpret_cast<float*>(scratch);
    const int64_t columns = patches_.out_c / patches_.groups, depth = patches_.depth();
    for (int64_t g = 0; g < patches_.groups; ++g) {
      const float* from = x + first * patches_.x_pitch + g * patches_.group_c();
      int64_t pitch = patches_.x_pitch;
      if (!direct()) {
        for (int64_t i = 0; i < n; ++i) lay_out(x, first + i, g, rows + i * depth);
        from = rows, pitch = depth;
      }
      const float* bias = bias_.empty() ? nullptr : bias_.data() + g * columns;
      weights_[size_t(g)].run(
          {n, columns, depth, from, pitch, nullptr, bias, y + g * columns, y_.pitch});
    }
  }

  void lay_out(const float* x, int64_t pixel, int64_t group, float* row) const noexcept {
    const int64_t channels = patches_.group_c(), first = group * channels;
    patches_.each_tap(x, pixel, [&](const float* at) {
      if (at == nullptr) {
        std::fill(row, row + channels, 0.0f);
      } else {
        std::copy(at + first, at + first + channels, row);
      }
      row += channels;
    });
  }

  void run_depthwise(const float* x, int64_t pixel, float* y, const float** taps) const noexcept {
    int64_t n = 0;
    patches_.each_tap(x, pixel, [&](const float* at) { taps[n++] = at; });
    const float* bias = bias_.empty() ? nullptr : bias_.data();
    const auto* w = reinterpret_cast<const float*>(packed_.data());
    gemm_.depthwise({taps, n, patches_.out_c, w, bias, y});
  }

  int32_t x_;
  Tensor y_;
  Patches patches_;
  const GemmF32Variant& gemm_;
  bool depthwise_;
  std::vector<float> bias_;
  std::vector<WeightsF32> weights_;  // of each group
  Memory packed_;                    // of a depthwise convolution
};

}  // namespace

std::unique_ptr<Op> make_conv_float(const OpView& op) {
  op.counts(5, 1, Patches::kInts + 2, 0);
  return std::make_unique<ConvFloat>(op);
}

}  // namespace qtool
