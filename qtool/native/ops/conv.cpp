// Conv: int8 convolution and matrix product with constant weights; conv/conv.h has the formula.
//
// inputs   x uint8 (N, H, W, C) or (rows, C); w int8 (O, kH, kW, C / groups) or (O, C);
//          bias int32 (O,); scale float32 (O,); then, each may be absent:
//          table uint8 (256,), residual uint8 like y, float_bias float32 (O,)
// outputs  y uint8 or float32 (N, P, Q, O) or (rows, O)
// ints     stride h w, dilation h w, pads top left bottom right, groups, x zero point,
//          y zero point, min, max, residual zero point, sum zero point, min, max
// floats   y ratio, residual ratio
#include <algorithm>
#include <cmath>
#include <vector>

#include "conv/conv.h"
#include "runtime/op.h"

namespace qtool {
namespace {

enum Input { kX, kW, kBias, kScale, kTable, kResidual, kFloatBias };
enum Int {
  kStrides,
  kDilations = 2,
  kPads = 4,
  kGroups = 8,
  kXZero,
  kYZero,
  kYMin,
  kYMax,
  kResidualZero,
  kSumZero,
  kSumMin,
  kSumMax,
  kInts,
};

constexpr int64_t kMostStep = 1 << 20;  // strides, dilations, pads, kernel sizes

int32_t integer(const OpView& op, int i, int64_t low, int64_t high) {
  return int32_t(op.integer(size_t(i), low, high));
}

// Dims of a rank 4 tensor; one of lower rank is an image of one row.
struct Image {
  int64_t n, h, w, c;
};

Image image(const Tensor& t) {
  if (t.rank == 4) return {t.dims[0], t.dims[1], t.dims[2], t.dims[3]};
  return {1, 1, t.rows, t.columns};
}

void read_geometry(const OpView& op, ConvArgs& a) {
  const Tensor &x = op.input(kX), &y = op.output(0), &w = op.input(kW);
  op.require(x.dtype == DType::kUint8, "x is not uint8");
  op.require(y.dtype == DType::kUint8 || y.dtype == DType::kFloat32, "y has a wrong type");
  op.require(x.kind == Kind::kArena || x.kind == Kind::kConstant, "x is fed by the caller");
  op.require((w.rank == 4 && x.rank == 4 && y.rank == 4) || w.rank == 2, "wrong ranks");
  const Image in = image(x), out = image(y), kernel = image(w);
  op.require(std::max({in.w, out.w, out.c}) < INT32_MAX / 2, "an image is too large");
  a.groups = integer(op, kGroups, 1, INT32_MAX);
  a.n = int32_t(in.n);
  a.in_h = int32_t(in.h), a.in_w = int32_t(in.w), a.in_c = int32_t(in.c);
  a.out_h = int32_t(out.h), a.out_w = int32_t(out.w), a.out_c = int32_t(out.c);
  a.kernel_h = w.rank == 4 ? int32_t(kernel.h) : 1;
  a.kernel_w = w.rank == 4 ? int32_t(kernel.w) : 1;
  a.x_pitch = x.pitch, a.y_pitch = y.pitch;
  op.require(out.n == in.n, "batch sizes differ");
  op.require(a.in_c % a.groups == 0 && a.out_c % a.groups == 0, "groups do not divide channels");
  const int64_t w_out = w.dims[0], w_in = w.columns;
  op.require(w_out == out.c && w_in == in.c / a.groups, "w does not fit x and y");
  op.require(
      a.kernel_h <= kMostStep && a.kernel_w <= kMostStep && w.size() / w_out <= (int64_t{1} << 30),
      "w is too large");
}

// One side: stride, dilation, pads at both ends; checks that the sizes follow.
void read_side(const OpView& op, int axis, int32_t in, int32_t out, int32_t kernel, int32_t& stride,
               int32_t& dilation, int32_t& pad) {
  stride = integer(op, kStrides + axis, 1, kMostStep);
  dilation = integer(op, kDilations + axis, 1, kMostStep);
  pad = integer(op, kPads + axis, 0, kMostStep);
  const int64_t after = integer(op, kPads + 2 + axis, 0, kMostStep);
  const int64_t room = int64_t{in} + pad + after - int64_t{dilation} * (kernel - 1) - 1;
  op.require(room >= 0 && room / stride + 1 == out, "the size of y does not follow from x");
}

void read_quantization(const OpView& op, ConvArgs& a) {
  Epilogue& e = a.epilogue;
  a.x_zero_point = integer(op, kXZero, 0, 255);
  e.y_zero_point = integer(op, kYZero, 0, 255);
  e.y_min = integer(op, kYMin, 0, 255);
  e.y_max = integer(op, kYMax, e.y_min, 255);
  e.float_output = op.output(0).dtype == DType::kFloat32;
  e.has_residual = op.has_input(kResidual);
  op.require(!e.float_output || !(e.has_residual || op.has_input(kTable)),
             "a float output has no table and no residual");
  op.require(e.float_output || !op.has_input(kFloatBias), "an integer output has a float bias");
  op.require(!(e.has_residual && op.has_input(kTable)), "a table and a residual");
  if (!e.has_residual) return;
  const Tensor& residual = op.input(kResidual);
  op.require(residual.dtype == DType::kUint8 && same_dims(residual, op.output(0)),
             "the residual is not like y");
  a.residual_pitch = residual.pitch;
  e.residual_zero_point = integer(op, kResidualZero, 0, 255);
  e.sum_zero_point = integer(op, kSumZero, 0, 255);
  e.sum_min = integer(op, kSumMin, 0, 255);
  e.sum_max = integer(op, kSumMax, e.sum_min, 255);
  e.y_ratio = op.finite(0);
  e.residual_ratio = op.finite(1);
}

template <typename T>
std::vector<T> padded(const T* values, int32_t n) {
  std::vector<T> copy((size_t(n) + kChannelPad - 1) / kChannelPad * kChannelPad);
  std::copy(values, values + n, copy.begin());
  return copy;
}

// bias - x_zero_point * sum of w, which wraps as the accumulators do.
void fold_zero_point(const ConvArgs& a, std::vector<int32_t>& bias) {
  for (int32_t o = 0; o < a.out_c; ++o) {
    const int8_t* w = a.w + int64_t{o} * a.depth();
    int32_t sum = 0;  // of at most 2^30 weights
    for (int32_t k = 0; k < a.depth(); ++k) sum = int32_t(uint32_t(sum) + uint32_t(int32_t{w[k]}));
    bias[size_t(o)] = int32_t(uint32_t(bias[size_t(o)]) - uint32_t(a.x_zero_point) * uint32_t(sum));
  }
}

class Conv final : public Op {
 public:
  explicit Conv(const OpView& op) : args_{}, x_(op.input(kX).id), y_(op.output(0).id) {
    read_geometry(op, args_);
    ConvArgs& a = args_;
    read_side(op, 0, a.in_h, a.out_h, a.kernel_h, a.stride_h, a.dilation_h, a.pad_top);
    read_side(op, 1, a.in_w, a.out_w, a.kernel_w, a.stride_w, a.dilation_w, a.pad_left);
    read_quantization(op, a);
    residual_ = a.epilogue.has_residual ? op.input(kResidual).id : -1;
    a.threads = op.threads;
    read_constants(op);
    variant_ = &select_conv(a, op.isa);
    packed_bytes_ = variant_->packed_bytes(a);
    packed_ = op.weights.take(packed_bytes_);
    variant_->pack(a, packed_);
    a.w = nullptr;
    units_ = variant_->units(a);
    held_at_ = (variant_->scratch_bytes(a) + 63) / 64 * 64;
    cycles_ = variant_->cycles(a);
    grain_ = std::max<int64_t>(1, int64_t(double(units_) * kLeastCycles / cycles_));
  }

  void run(const Run& run) const noexcept override {
    ConvCall call{&args_,  packed_, run.at<uint8_t>(x_), nullptr, run.at<void>(y_),
                  nullptr, nullptr};
    if (residual_ >= 0) call.residual = run.at<uint8_t>(residual_);
    for (int i = 0; i < run.pool->threads(); ++i) *held(run, i) = -1;
    run.pool->split(units_, grain_, [&](int64_t begin, int64_t end, int thread) {
      ConvCall part = call;
      part.scratch = run.scratch + size_t(thread) * run.scratch_pitch;
      part.held = held(run, thread);
      variant_->run(part, begin, end);
    });
  }

  const char* kernel() const noexcept override { return variant_->name; }
  size_t scratch_bytes() const noexcept override { return held_at_ + sizeof(int64_t); }
  size_t packed_bytes() const noexcept override { return packed_bytes_; }
  double cycles() const noexcept override { return cycles_; }

 private:
  static constexpr double kLeastCycles = 5000;  // of a part: handing it over takes some hundreds

  int64_t* held(const Run& run, int thread) const noexcept {
    return reinterpret_cast<int64_t*>(run.scratch + size_t(thread) * run.scratch_pitch + held_at_);
  }

  void read_constants(const OpView& op) {
    ConvArgs& a = args_;
    Epilogue& e = a.epilogue;
    a.w = op.constant<int8_t>(kW, DType::kInt8, int64_t{a.out_c} * a.depth());
    bias_ = padded(op.constant<int32_t>(kBias, DType::kInt32, a.out_c), a.out_c);
    fold_zero_point(a, bias_);
    scale_ = padded(op.constant<float>(kScale, DType::kFloat32, a.out_c), a.out_c);
    op.require(std::all_of(scale_.begin(), scale_.end(), [](float s) { return std::isfinite(s); }),
               "a scale is not finite");
    e.bias = bias_.data();
    e.scale = scale_.data();
    if (op.has_input(kTable)) {
      const auto* table = op.constant<uint8_t>(kTable, DType::kUint8, 256);
      table_.assign(table, table + 256);
      e.table = table_.data();
    }
    if (op.has_input(kFloatBias)) {
      float_bias_ = padded(op.constant<float>(kFloatBias, DType::kFloat32, a.out_c), a.out_c);
      e.float_bias = float_bias_.data();
    }
  }

  ConvArgs args_;
  const int32_t x_, y_;
  int32_t residual_;
  std::vector<int32_t> bias_;
  std::vector<float> scale_, float_bias_;
  std::vector<uint8_t> table_;
  const ConvVariant* variant_;
  uint8_t* packed_;
  size_t packed_bytes_;
  int64_t units_, grain_;
  size_t held_at_;  // in scratch memory
  double cycles_;
};

}  // namespace

std::unique_ptr<Op> make_conv(const OpView& op) {
  op.counts(7, 1, kInts, 2);
  return std::make_unique<Conv>(op);
}

}  // namespace qtool
