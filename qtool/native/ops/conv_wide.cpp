// ConvWide: convolutions that Conv does not take: three spatial dims, weights with zero points,
// activations of 16 bits, a zero point that is known at run time.
//
//   acc = bias[o] + sum of (x - x_zero) * (w - w_zero[o]), in int64; x = x_zero outside the image
//
// inputs   x uint8, uint16 or int16 (N, D, H, W, C); w int8 (O, kD, kH, kW, C / groups); bias int32
//          (O,) or absent; scale float32 as WideEpilogue has it; w zero int8 (O,), constant, or
//          absent; x zero uint8 (1,), or absent where the parameters have it; float bias float32
//          (O,), constant, or absent where y is not float32
// outputs  y (N, P, Q, R, O) as WideEpilogue has it
// ints     of Patches; x zero point; of WideEpilogue
#include <vector>

#include "ops/patches.h"
#include "ops/wide_operand.h"
#include "runtime/memory.h"

namespace qtool {
namespace {

enum Input { kX, kW, kBias, kScale, kWZero, kXZero, kFloatBias };

class ConvWide final : public Op {
 public:
  explicit ConvWide(const OpView& op)
      : x_(op.input(kX).id),
        zeros_(op.has_input(kXZero) ? op.input(kXZero).id : -1),
        y_(op.output(0)),
        operand_(op, op.input(kX).dtype),
        patches_(op, 0, op.input(kX), y_),
        product_(op.isa, columns(), patches_.depth(), operand_.bits()),
        epilogue_(op, product_.variant(), y_, patches_.out_c, kScale, Patches::kInts + 1),
        x_zero_(int32_t(op.integer(Patches::kInts, operand_.lowest, operand_.highest))) {
    if (zeros_ >= 0) {
      const Tensor& zero = op.input(kXZero);
      op.require(operand_.narrow() && zero.dtype == DType::kUint8 && zero.size() == 1,
                 "the zero point is not one uint8");
    }
    const Patches& p = patches_;
    constexpr int64_t kMostTaps = 128;  // sums of 2^23 that fit int32
    depthwise_ = p.groups > 1 && p.group_c() == 1 && p.out_c == p.in_c && p.depth() <= kMostTaps;
    read_weights(op);
    if (!op.has_input(kFloatBias)) return;
    op.require(y_.dtype == DType::kFloat32, "an integer output has a float bias");
    epilogue_.add(op.constant<float>(kFloatBias, DType::kFloat32, p.out_c), p.out_c);
  }

  const char* kernel() const noexcept override { return isa_name(product_.variant().isa); }
  size_t packed_bytes() const noexcept override {
    return packed_.size() + depthwise_w_.size() * sizeof(int16_t);
  }
  size_t scratch_bytes() const noexcept override {
    if (depthwise_) return 2 * row_bytes() + size_t(patches_.depth()) * sizeof(void*);
    return size_t(WideProduct::kRows * product_.row_pitch()) * sizeof(int16_t);
  }

  void run(const Run& run) const noexcept override {
    constexpr int64_t kRows = WideProduct::kRows;
    const int64_t blocks = (patches_.pixels() + kRows - 1) / kRows;
    const int64_t work = 1 + patches_.depth() * patches_.out_c * kRows;
    run.pool->split(blocks, 1 + kLeastMacs / work, [&](int64_t begin, int64_t end, int thread) {
      uint8_t* scratch = run.scratch + size_t(thread) * run.scratch_pitch;
      auto* rows = reinterpret_cast<int16_t*>(scratch);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = std::min(kRows, patches_.pixels() - i * kRows);
        if (depthwise_) {
          with_wide(operand_.dtype,
                    [&](auto type) { run_depthwise<decltype(type)>(run, i * kRows, n, scratch); });
          continue;
        }
        for (int64_t g = 0; g < patches_.groups; ++g) run_block(run, i * kRows, n, g, rows);
      }
    });
  }

 private:
  static constexpr int64_t kLeastMacs = 100000;  // per thread

  int64_t columns() const noexcept { return patches_.out_c / patches_.groups; }

  int32_t zero(const Run& run) const noexcept {
    return zeros_ < 0 ? x_zero_ : int32_t{*run.at<const uint8_t>(zeros_)};
  }

  void read_weights(const OpView& op) {
    const Patches& p = patches_;
    const auto* w = op.constant<int8_t>(kW, DType::kInt8, p.out_c * p.depth());
    if (depthwise_) {
      depthwise_w_.resize(size_t(p.out_c * p.depth()));
    } else {
      packed_ = Memory(product_.packed_bytes() * size_t(p.groups));
    }
    bias_.resize(size_t(p.out_c));
    if (op.has_input(kBias)) {
      const auto* bias = op.constant<int32_t>(kBias, DType::kInt32, p.out_c);
      std::copy(bias, bias + p.out_c, bias_.begin());
    }
    if (op.has_input(kWZero)) {
      const auto* zero = op.constant<int8_t>(kWZero, DType::kInt8, p.out_c);
      w_zero_.assign(zero, zero + p.out_c);
    }
    // What is left when x has `middle` taken off instead of its zero point.
    const int64_t rest = int64_t{operand_.middle(x_zero_)} - x_zero_;
    for (int64_t o = 0; o < p.out_c; ++o, w += p.depth()) {
      const int64_t zero = w_zero_.empty() ? 0 : w_zero_[size_t(o)];
      int64_t sum = 0;
      for (int64_t k = 0; k < p.depth(); ++k) sum += w[k] - zero;
      bias_[size_t(o)] += rest * sum;
      if (depthwise_) {
        for (int64_t k = 0; k < p.depth(); ++k) {
          depthwise_w_[size_t(k * p.out_c + o)] = int16_t(w[k] - zero);
        }
        continue;
      }
      auto* to = reinterpret_cast<int8_t*>(packed_.data()) +
                 o / columns() * int64_t(product_.packed_bytes());
      for (int64_t k = 0; k < p.depth(); ++k) to[product_.place(o % columns(), k)] = w[k];
    }
  }

  template <typename T>
  void lay_out(const Run& run, int64_t pixel, int64_t group, int16_t* row) const noexcept {
    const int32_t zero = this->zero(run), middle = operand_.middle(zero);
    const int64_t channels = patches_.group_c(), from = group * channels;
    int16_t* const end = row + product_.row_pitch();
    patches_.each_tap(run.at<const T>(x_), pixel, [&](const T* at) {
      if (at == nullptr) {
        std::fill(row, row + channels, int16_t(zero - middle));
      } else {
        for (int64_t c = 0; c < channels; ++c) row[c] = int16_t(int32_t{at[from + c]} - middle);
      }
      row += channels;
    });
    std::fill(row, end, int16_t{0});
  }

  // Scratch: a sum for each channel, a row of zero points, and the taps of a pixel.
  template <typename T>
  void run_depthwise(const Run& run, int64_t first, int64_t n, uint8_t* scratch) const noexcept {
    const int32_t zero = this->zero(run);
    const int64_t channels = patches_.out_c, item = int64_t(item_bytes(y_.dtype));
    auto* acc = reinterpret_cast<int32_t*>(scratch);
    auto* outside = reinterpret_cast<T*>(scratch + row_bytes());
    auto** taps = reinterpret_cast<const T**>(scratch + 2 * row_bytes());
    std::fill(outside, outside + channels, T(zero));
    for (int64_t i = 0; i < n; ++i) {
      int64_t n_taps = 0;
      patches_.each_tap(run.at<const T>(x_), first + i,
                        [&](const T* at) { taps[n_taps++] = at == nullptr ? outside : at; });
      product_.variant().depthwise(DepthwiseS16Args<T>{
          taps, n_taps, channels, operand_.middle(zero), depthwise_w_.data(), acc});
      for (int64_t c = 0; c < channels; c += kPanelS16) {
        const int64_t some = std::min(kPanelS16, channels - c);
        int64_t sums[kPanelS16] = {};
        for (int64_t j = 0; j < some; ++j) sums[j] = acc[c + j] + bias_[size_t(c + j)];
        uint8_t* y = run.at<uint8_t>(y_.id) + ((first + i) * y_.pitch + c) * item;
        epilogue_.store(sums, c, some, y, epilogue_.scale(run));
      }
    }
  }

  size_t row_bytes() const noexcept { return aligned(size_t(patches_.out_c) * sizeof(int32_t)); }

  void run_block(const Run& run, int64_t first, int64_t n, int64_t group,
                 int16_t* rows) const noexcept {
    int64_t acc[WideProduct::kRows][kPanelS16], sums[WideProduct::kRows] = {};
    const int64_t pitch = product_.row_pitch(), column = group * columns();
    for (int64_t i = 0; i < n; ++i) {
      with_wide(operand_.dtype, [&](auto type) {
        lay_out<decltype(type)>(run, first + i, group, rows + i * pitch);
      });
      if (w_zero_.empty()) continue;
      for (int64_t k = 0; k < pitch; ++k) sums[i] += rows[i * pitch + k];
    }
    const auto* w =
        reinterpret_cast<const int8_t*>(packed_.data()) + group * int64_t(product_.packed_bytes());
    const auto item = int64_t(item_bytes(y_.dtype));
    const float* scale = epilogue_.scale(run);
    for (int64_t panel = 0; panel < product_.panels(); ++panel) {
      product_.run(rows, n, w, panel, acc);
      const int64_t j = panel * kPanelS16, some = std::min(kPanelS16, columns() - j);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < some; ++c) {
          const auto o = size_t(column + j + c);
          acc[i][c] += bias_[o] - (w_zero_.empty() ? 0 : w_zero_[o] * sums[i]);
        }
        const int64_t at = ((first + i) * y_.pitch + column + j) * item;
        epilogue_.store(acc[i], column + j, some, run.at<uint8_t>(y_.id) + at, scale);
      }
    }
  }

  int32_t x_, zeros_;
  Tensor y_;
  WideOperand operand_;
  Patches patches_;
  WideProduct product_;
  WideEpilogue epilogue_;
  int32_t x_zero_;
  std::vector<int64_t> bias_;
  std::vector<int8_t> w_zero_;
  bool depthwise_;
  std::vector<int16_t> depthwise_w_;  // [tap][channel], zero points taken off
  Memory packed_;
};

}  // namespace

std::unique_ptr<Op> make_conv_wide(const OpView& op) {
  op.counts(7, 1, Patches::kInts + 4, 0);
  return std::make_unique<ConvWide>(op);
}

}  // namespace qtool
