// Compares every kernel variant that this machine has with the scalar one, byte for byte, on
// random shapes and values; scalar kernels equal tests/reference.py (tests/native). Needs no
// Python, so that kernels of another processor can be checked in an emulator: scripts/check_arm.sh.
//
//     check_variants [CASES [SEED]]
//
// Exit code 1, and which case, when bytes differ. Case N of seed S is the same everywhere.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check_products.h"
#include "conv/conv.h"
#include "elementwise/kernels.h"
#include "gram/kernels.h"
#include "histogram/histogram.h"
#include "lookup/lookup.h"
#include "runtime/memory.h"

namespace {

struct ConvCase {
  ConvArgs args{};
  std::vector<int8_t> w;
  std::vector<int32_t> bias;
  std::vector<float> scale, float_bias;
  Bytes table;
  Memory x, residual;
  int parts = 1;
};

void draw_side(Random& random, int32_t& size, int32_t& out, int32_t& kernel, int32_t& stride,
               int32_t& dilation, int32_t& pad) {
  kernel = int32_t(random.one_in(2) ? random.between(1, 7) : random.one_in(2) ? 3 : 1);
  stride = int32_t(random.between(1, 3)), dilation = int32_t(random.one_in(4) ? 2 : 1);
  pad = int32_t(random.between(0, 4));
  const int32_t after = int32_t(random.between(0, 4)), reach = (kernel - 1) * dilation + 1;
  size = int32_t(random.between(1, 19));
  if (size + pad + after < reach) size = reach;
  out = (size + pad + after - reach) / stride + 1;
}

void draw_epilogue(Random& random, ConvCase& c) {
  ConvArgs& a = c.args;
  Epilogue& e = a.epilogue;
  const double depth = a.depth();
  const bool extreme = random.one_in(8);
  for (int32_t o = 0; o < a.out_c; ++o) {
    const double steps = 60 / (127 * 74 * std::sqrt(depth));
    c.scale[size_t(o)] = float(steps) * (1.5f + random.real(1));
    if (extreme) c.scale[size_t(o)] = std::ldexp(1.0f, int(random.between(-140, 127)));
    c.bias[size_t(o)] = int32_t(random.one_in(9) ? random.between(INT32_MIN, INT32_MAX)
                                                 : random.between(-9999, 9999));
    c.float_bias[size_t(o)] = random.real(10);
  }
  e.y_zero_point = random.zero_point();
  e.y_min = random.one_in(3) ? random.byte() : 0;
  e.y_max = random.one_in(3) ? int32_t(random.between(e.y_min, 255)) : 255;
  switch (random.between(0, 4)) {
    case 0:
      e.float_output = true;
      if (random.one_in(2)) e.float_bias = c.float_bias.data();
      break;
    case 1:
      e.table = c.table.data();
      break;
    case 2:
      e.has_residual = true;
      e.residual_zero_point = random.byte(), e.sum_zero_point = random.zero_point();
      e.sum_min = random.one_in(3) ? random.byte() : 0;
      e.sum_max = random.one_in(3) ? int32_t(random.between(e.sum_min, 255)) : 255;
      e.y_ratio = random.real(extreme ? 3e38f : 2), e.residual_ratio = random.real(2);
      if (extreme && random.one_in(2)) e.residual_ratio = random.real(3e38f);
      break;
    default:
      break;
  }
}

std::unique_ptr<ConvCase> draw_conv(Random& random) {
  auto made = std::make_unique<ConvCase>();
  ConvArgs& a = made->args;
  a.n = int32_t(random.one_in(2) ? 1 : random.between(2, 8));
  draw_side(random, a.in_h, a.out_h, a.kernel_h, a.stride_h, a.dilation_h, a.pad_top);
  draw_side(random, a.in_w, a.out_w, a.kernel_w, a.stride_w, a.dilation_w, a.pad_left);
  const bool depthwise = random.one_in(3);
  a.groups = int32_t(depthwise          ? random.between(1, 140)
                     : random.one_in(3) ? random.between(2, 4)
                                        : 1);
  a.in_c = int32_t(a.groups * (depthwise ? 1 : random.between(1, 70)));
  const bool blocks = random.one_in(3);  // full ones, which kernels store without masks
  const int64_t out = blocks ? 16 * random.between(1, 9) : random.between(1, 70);
  a.out_c = int32_t(a.groups * (depthwise ? 1 : out));
  a.x_pitch = a.in_c + (random.one_in(3) ? random.between(1, 20) : 0);
  a.y_pitch = a.out_c + (random.one_in(3) ? random.between(1, 20) : 0);
  a.residual_pitch = a.out_c + (random.one_in(3) ? random.between(1, 20) : 0);
  a.x_zero_point = random.byte();
  a.threads = int(random.between(1, 3));
  made->parts = int(random.between(1, 4));

  const bool most = random.one_in(5);  // the largest products
  made->w.resize(size_t(a.out_c) * size_t(a.depth()));
  for (int8_t& w : made->w) {
    w = int8_t(most ? (random.one_in(2) ? -128 : 127) : random.between(-128, 127));
  }
  made->x = Memory(size_t(a.n * a.in_h * a.in_w) * size_t(a.x_pitch));
  for (size_t i = 0; i < made->x.size(); ++i) {
    made->x.data()[i] = uint8_t(most ? (random.one_in(9) ? 0 : 255) : random.between(0, 255));
  }
  made->residual = Memory(size_t(a.pixels() * a.residual_pitch));
  for (size_t i = 0; i < made->residual.size(); ++i) {
    made->residual.data()[i] = uint8_t(random.between(0, 255));
  }
  made->table.resize(256);
  for (uint8_t& value : made->table) value = uint8_t(random.between(0, 255));
  const size_t padded = size_t((a.out_c + kChannelPad - 1) / kChannelPad * kChannelPad);
  made->bias.resize(padded), made->scale.resize(padded), made->float_bias.resize(padded);
  draw_epilogue(random, *made);
  a.w = made->w.data();
  a.epilogue.bias = made->bias.data(), a.epilogue.scale = made->scale.data();
  return made;
}

Bytes run_conv(const ConvVariant& variant, const ConvCase& c) {
  const ConvArgs& a = c.args;
  Memory packed(variant.packed_bytes(a)), scratch(variant.scratch_bytes(a));
  variant.pack(a, packed.data());
  Bytes y(size_t(a.pixels() * a.y_pitch) * (a.epilogue.float_output ? 4 : 1), kUntouched);
  const uint8_t* residual = a.epilogue.has_residual ? c.residual.data() : nullptr;
  const ConvCall call{&a, packed.data(), c.x.data(), residual, y.data(), scratch.data(), nullptr};
  const int64_t units = variant.units(a);
  for (int64_t part = c.parts; part-- > 0;) {  // the last first: no part may need another
    variant.run(call, units * part / c.parts, units * (part + 1) / c.parts);
  }
  return y;
}

void check_conv(Random& random, unsigned long long number) {
  const std::unique_ptr<ConvCase> c = draw_conv(random);
  const Bytes expected = run_conv(conv_any_1x1__scalar, *c);
  for (int i = 0; i < n_conv_variants(); ++i) {
    const ConvVariant& variant = *conv_variants()[i];
    if (!supports(variant.isa) || !variant.available() || !variant.supports(c->args)) continue;
    compare(variant.name, run_conv(variant, *c).data(), expected.data(), expected.size(), number);
  }
}

void check_look_up(Random& random, unsigned long long number) {
  const int64_t rows = random.between(1, 4), n = random.between(1, 150);
  const int64_t pitch = n + random.between(0, 9);
  Bytes table(256), y(size_t(rows * pitch));
  for (Bytes* bytes : {&table, &y}) {
    for (uint8_t& value : *bytes) value = uint8_t(random.between(0, 255));
  }
  Bytes expected = y;
  look_up_1__scalar({table.data(), expected.data(), rows, n, pitch});
  for (int i = 0; i < n_look_up_variants(); ++i) {
    const LookUpVariant& variant = look_up_variants()[i];
    if (!supports(variant.isa) || !variant.available()) continue;
    Bytes found = y;
    variant.run({table.data(), found.data(), rows, n, pitch});
    compare(variant.name, found.data(), expected.data(), found.size(), number);
  }
}

float any_float(Random& random) {
  constexpr float kEnds[] = {0.0f, -0.0f, 1e-42f, -1e-42f, 3e38f,  -3e38f, INFINITY, -INFINITY,
                             NAN,  0.5f,  2.5f,   -3.5f,   88.73f, -87.4f, 0.9277f,  0.625f};
  if (random.one_in(12)) return kEnds[random.between(0, std::size(kEnds) - 1)];
  return std::ldexp(random.real(1), int(random.between(-8, 8)));
}

// What one elementwise table of kernels makes of some drawn values.
class Elementwise {
 public:
  explicit Elementwise(Random& random) : n_(random.between(1, 150)) {
    floats_.resize(size_t(4 * n_));
    bytes_.resize(size_t(4 * n_));
    for (float& x : floats_) x = any_float(random);
    for (uint8_t& x : bytes_) x = uint8_t(random.byte());
    n_taps_ = random.between(1, 9);
    for (int64_t i = 0; i < n_taps_; ++i) offsets_.push_back(random.between(0, 3 * n_));
    rounding_.zero_point = random.byte(), rounding_.low = random.one_in(3) ? random.byte() : 0;
    rounding_.high = int32_t(random.between(rounding_.low, 255));
    scale_ = std::ldexp(1 + random.real(0.5f), int(random.between(-9, 3)));
    other_ = random.real(2);
    zeros_[0] = random.byte(), zeros_[1] = random.byte();
    repeats_ = int(random.between(0, 2));
    channels_ = random.between(1, 4);
    pitch_ = channels_ + (random.one_in(2) ? random.between(0, 5) : 0);
    function_ = FloatFunction(random.between(0, int(FloatFunction::kCount) - 1));
  }

  void compare_with(const ElementwiseKernels& k, unsigned long long number) const {
    const std::string name = std::string("elementwise__") + isa_name(k.isa);
    const auto [bytes, floats] = run(k);
    const auto [expected_bytes, expected_floats] = run(elementwise__scalar);
    compare(name, bytes.data(), expected_bytes.data(), bytes.size(), number);
    compare_floats(name, floats, expected_floats, number);
  }

 private:
  std::pair<Bytes, std::vector<float>> run(const ElementwiseKernels& k) const {
    Bytes y(size_t(6 * n_ + n_ * pitch_ + 64), kUntouched);
    std::vector<float> f(size_t(5 * n_));
    std::vector<int32_t> sums(size_t(n_), 0);
    uint8_t* to = y.data();
    k.quantize({floats_.data(), to, n_, scale_, rounding_});
    BinaryInt8Args binary{bytes_.data(), bytes_.data() + n_, to + n_,   n_,     repeats_ == 1,
                          repeats_ == 2, zeros_[0],          zeros_[1], scale_, other_,
                          rounding_};
    k.add(binary);
    binary.y = to + 2 * n_;
    k.mul(binary);
    k.max_bytes({bytes_.data(), offsets_.data(), n_taps_, n_}, to + 3 * n_);
    k.sum_bytes({bytes_.data(), offsets_.data(), n_taps_, n_}, sums.data());
    k.requantize({sums.data(), to + 4 * n_, n_, zeros_[0], scale_, rounding_});
    const int64_t pixels = n_ / channels_;
    k.quantize_image(
        {floats_.data(), to + 5 * n_, pixels, pixels, channels_, pitch_, scale_, rounding_});
    k.dequantize({bytes_.data(), f.data(), n_, scale_, zeros_[0]});
    k.max_floats({floats_.data(), offsets_.data(), n_taps_, n_}, f.data() + n_);
    k.sum_floats({floats_.data(), offsets_.data(), n_taps_, n_}, f.data() + 2 * n_);
    k.function(function_)({floats_.data(), f.data() + 3 * n_, n_, scale_, other_});
    k.softmax(floats_.data(), f.data() + 4 * n_, n_);
    return {y, f};
  }

  int64_t n_, n_taps_, channels_, pitch_;
  std::vector<float> floats_;
  Bytes bytes_;
  std::vector<int64_t> offsets_;
  Rounding rounding_;
  float scale_, other_;
  int32_t zeros_[2];
  int repeats_;
  FloatFunction function_;
};

void check_elementwise(Random& random, unsigned long long number) {
  const Elementwise drawn(random);
#define QTOOL_ELEMENTWISE(isa, name) \
  if (supports(isa)) drawn.compare_with(name, number);
#include "elementwise/kernels.inc"
#undef QTOOL_ELEMENTWISE
}

void check_histogram(Random& random, unsigned long long number) {
  std::vector<float> x(size_t(random.between(1, 3000)));
  const int exponent = int(random.between(-126, 100));
  for (float& value : x) {
    value =
        random.one_in(5) ? 0.0f : std::ldexp(random.real(1), exponent - int(random.between(0, 24)));
  }
  const auto state = [&](const char* isa) {
    auto histogram = std::make_unique<Histogram>(isa);
    histogram->update(x.data(), x.size());
    return std::make_unique<HistogramState>(histogram->state());
  };
  const auto expected = state("scalar");
  for (const char* isa : {"neon", "avx2", "avx512"}) {
    if (!supports(isa_named(isa))) continue;
    const auto found = state(isa);
    compare(std::string("histogram__") + isa, found.get(), expected.get(), sizeof *found, number);
  }
}

void check_gram(Random& random, unsigned long long number) {
  const auto n = size_t(random.between(1, 40));
  std::vector<double> a(n * kTile), b(n * kTile), start(kTile * kTile);
  for (std::vector<double>* v : {&a, &b, &start}) {
    for (double& value : *v) value = double(random.real(4));
  }
  std::vector<double> expected = start;
  gram_tile__scalar(a.data(), b.data(), n, expected.data());
#define QTOOL_GRAM(isa, tile)                                                             \
  if (supports(isa)) {                                                                    \
    std::vector<double> found = start;                                                    \
    tile(a.data(), b.data(), n, found.data());                                            \
    compare(#tile, found.data(), expected.data(), found.size() * sizeof(double), number); \
  }
#include "gram/kernels.inc"
#undef QTOOL_GRAM
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long long cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
  const unsigned long long seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  for (unsigned long long number = 0; number < cases; ++number) {
    Random random{std::mt19937_64(seed * 1000003 + number)};
    check_conv(random, number);
    check_look_up(random, number);
    check_elementwise(random, number);
    if (number % 8 == 0) check_histogram(random, number);
    check_gram(random, number);
    check_gemm_s16(random, number);
    check_gemm_f32(random, number);
  }
  for (const auto& [name, n] : g_compared) std::printf("%-28s %8ld equal\n", name.c_str(), n);
}
