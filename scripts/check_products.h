// The kernels of wide and of float products against what they are to compute, byte for byte.
#pragma once

#include <cmath>

#include "checking.h"
#include "gemm_f32/gemm_f32.h"
#include "gemm_s16/gemm_s16.h"
#include "runtime/memory.h"

inline std::vector<int16_t> words(Random& random, int64_t n, int64_t low, int64_t high) {
  std::vector<int16_t> drawn(static_cast<size_t>(n));
  for (int16_t& x : drawn) {
    x = int16_t(random.one_in(4) ? (random.one_in(2) ? low : high) : random.between(low, high));
  }
  return drawn;
}

// One panel of sums, their ends as bytes, and a pixel of a depthwise convolution.
class WideProducts {
 public:
  explicit WideProducts(Random& random)
      : m_(random.between(1, 20)),
        k_(2 * random.between(1, 60)),
        taps_(random.between(1, 9)),
        channels_(random.between(1, 70)),
        middle_(int32_t(random.between(0, 32768))) {
    x_pitch_ = k_ + (random.one_in(2) ? random.between(1, 9) : 0);
    x_ = words(random, m_ * x_pitch_, -32768, 32767);
    w_.resize(size_t(k_ * kPanelS16));
    for (int8_t& w : w_) w = int8_t(random.between(-128, 127));
    taps_w_ = words(random, taps_ * channels_, -255, 255);
    pixels_ = words(random, taps_ * channels_, -32768, 32767);
    for (int64_t j = 0; j < kPanelS16; ++j) {
      real_.push_back(random.one_in(9) ? NAN
                                       : std::ldexp(random.real(1), int(random.between(0, 40))));
      scale_.push_back(std::ldexp(random.real(1), int(random.between(-30, 0))));
    }
    low_ = int32_t(random.between(-32768, 0)), high_ = int32_t(random.between(low_, 65535));
    zero_point_ = int32_t(random.between(low_, high_));
  }

  std::vector<int32_t> run(const GemmS16Variant& v) const {
    std::vector<int32_t> made(size_t((m_ + 1) * kPanelS16 + 3 * channels_));
    int32_t* to = made.data();
    v.run({m_, k_, x_.data(), x_pitch_, w_.data(), to});
    v.finish({real_.data(), scale_.data(), zero_point_, low_, high_, to + m_ * kPanelS16});
    to += (m_ + 1) * kPanelS16;
    depthwise<uint8_t>(v, to);
    depthwise<uint16_t>(v, to + channels_);
    depthwise<int16_t>(v, to + 2 * channels_);
    return made;
  }

 private:
  template <typename T>
  void depthwise(const GemmS16Variant& v, int32_t* to) const {
    std::vector<const T*> x;
    for (int64_t i = 0; i < taps_; ++i) {
      x.push_back(reinterpret_cast<const T*>(pixels_.data()) + i * channels_);
    }
    v.depthwise(DepthwiseS16Args<T>{x.data(), taps_, channels_, middle_, taps_w_.data(), to});
  }

  int64_t m_, k_, taps_, channels_, x_pitch_;
  int32_t middle_, low_, high_, zero_point_;
  std::vector<int16_t> x_, taps_w_, pixels_;
  std::vector<int8_t> w_;
  std::vector<float> real_, scale_;
};

inline void check_gemm_s16(Random& random, unsigned long long number) {
  const WideProducts drawn(random);
  const std::vector<int32_t> expected = drawn.run(gemm_s16__scalar);
#define QTOOL_GEMM_S16(isa, name)                                                              \
  if (supports(isa)) {                                                                         \
    compare(#name, drawn.run(name).data(), expected.data(), expected.size() * sizeof(int32_t), \
            number);                                                                           \
  }
#include "gemm_s16/kernels.inc"
#undef QTOOL_GEMM_S16
}

// Sums in the order of the depth, each product fused with the sum before it; not in the scalar
// kernels, which round both.
class FloatProducts {
 public:
  explicit FloatProducts(Random& random)
      : m_(random.between(1, 20)),
        n_(random.between(1, 90)),
        k_(random.between(1, 40)),
        taps_(random.between(1, 9)),
        x_pitch_(k_ + random.between(0, 9)),
        y_pitch_(n_ + random.between(0, 9)),
        adds_(random.one_in(2)),
        biased_(random.one_in(2)) {
    for (auto [v, n] : {std::pair{&x_, m_ * x_pitch_},
                        {&w_, n_ * k_},
                        {&bias_, n_},
                        {&y_, m_ * y_pitch_},
                        {&pixels_, taps_ * n_},
                        {&taps_w_, taps_ * n_}}) {
      for (int64_t i = 0; i < n; ++i) v->push_back(random.real(4));
    }
    for (int64_t i = 0; i < taps_; ++i) outside_.push_back(random.one_in(4));
    for (int64_t i = 0; i < 6 * kMostPanelF32; ++i) q_.push_back(int8_t(random.between(-128, 127)));
    for (int64_t i = 0; i < 2 * kMostPanelF32; ++i) zero_scale_.push_back(random.real(9));
    rows_ = random.between(1, 6);
    halves_ = random.one_in(2);
  }

  std::vector<float> run(const GemmF32Variant& v) const {
    Memory packed(v.packed_bytes(n_, k_));
    auto* w = reinterpret_cast<float*>(packed.data());
    v.pack(w_.data(), n_, k_, k_, 1, w);
    std::vector<float> y = y_;
    v.run({m_, n_, k_, x_.data(), x_pitch_, w, biased_ ? bias_.data() : nullptr, y.data(), y_pitch_,
           adds_});
    std::vector<const float*> taps;
    for (int64_t i = 0; i < taps_; ++i) {
      taps.push_back(outside_[size_t(i)] ? nullptr : pixels_.data() + i * n_);
    }
    y.resize(y.size() + size_t(n_));
    v.depthwise({taps.data(), taps_, n_, taps_w_.data(), biased_ ? bias_.data() : nullptr,
                 y.data() + y_.size()});
    return y;
  }

  std::vector<float> expected(bool fused) const {
    std::vector<float> y = y_;
    for (int64_t i = 0; i < m_; ++i) {
      for (int64_t j = 0; j < n_; ++j) {
        float& acc = y[size_t(i * y_pitch_ + j)];
        if (!adds_) acc = start(j);
        for (int64_t k = 0; k < k_; ++k) {
          acc = add(fused, acc, x_[size_t(i * x_pitch_ + k)], w_[size_t(j * k_ + k)]);
        }
      }
    }
    for (int64_t c = 0; c < n_; ++c) {
      float acc = start(c);
      for (int64_t i = 0; i < taps_; ++i) {
        const auto at = size_t(i * n_ + c);
        if (!outside_[size_t(i)]) acc = add(fused, acc, pixels_[at], taps_w_[at]);
      }
      y.push_back(acc);
    }
    return y;
  }

  std::vector<float> dequantized(const GemmF32Variant& v) const {
    std::vector<float> y(size_t(rows_ * v.panel));
    v.dequantize({q_.data(), zero_scale_.data(), zero_scale_.data() + kMostPanelF32, rows_,
                  y.data(), halves_});
    return y;
  }

  std::vector<float> expected_dequantized(int64_t panel) const {
    std::vector<float> y;
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < panel; ++j) {
        const int8_t byte = q_[size_t((halves_ ? i / 2 : i) * panel + j)];
        const auto half = int8_t(i % 2 == 0 ? uint8_t(byte) & 15 : uint8_t(byte) >> 4);
        const volatile float moved = float(halves_ ? half : byte) - zero_scale_[size_t(j)];
        y.push_back(moved * zero_scale_[size_t(kMostPanelF32 + j)]);
      }
    }
    return y;
  }

 private:
  float start(int64_t j) const { return biased_ ? bias_[size_t(j)] : 0; }

  static float add(bool fused, float acc, float a, float b) {
    if (fused) return std::fma(a, b, acc);
    const volatile float product = a * b;  // rounded
    return acc + product;
  }

  int64_t m_, n_, k_, taps_, x_pitch_, y_pitch_, rows_;
  bool adds_, biased_, halves_;
  std::vector<float> x_, w_, bias_, y_, pixels_, taps_w_, zero_scale_;
  std::vector<int8_t> q_;
  std::vector<bool> outside_;
};

inline void check_gemm_f32(Random& random, unsigned long long number) {
  const FloatProducts drawn(random);
#define QTOOL_GEMM_F32(isa, name)                                                          \
  if (supports(isa)) {                                                                     \
    compare_floats(#name, drawn.run(name), drawn.expected(isa != Isa::kScalar), number);   \
    compare_floats(#name, drawn.dequantized(name), drawn.expected_dequantized(name.panel), \
                   number);                                                                \
  }
#include "gemm_f32/kernels.inc"
#undef QTOOL_GEMM_F32
}
