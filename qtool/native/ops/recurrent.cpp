// Lstm, Gru and Rnn: the recurrent part of one direction; x W^T + b is done before, for all steps.
//
//   Rnn:   h = f(gates[t] + h R^T)
//   Lstm:  i, o, f, c' = gates[t] + h R^T (+ p_i c, p_o c of after, p_f c)
//          c = f(f) c + f(i) g(c');  h = f(o) h(c)
//   Gru:   z, r = f(gates[t] + h R^T);  h' = g(gates_h[t] + (r h) R_h^T), or, where it is linear
//          before reset, g(gates_h[t] + r (h R_h^T + b_h));  h = (1 - z) h' + z h
//
// float32. What goes into f and g is clipped to -clip .. clip before, where clip is above 0. From
// step lengths[b] on, y of sequence b is 0 and its state stays.
//
// inputs   gates (T, B, G H), G = 4, 3, 1; R (G H, H), its scale and zero point as WeightsReader
//          has them; h (B, H); lengths int32 (B,) or absent; of Lstm c (B, H) and p (3 H: i o f),
//          constant, or absent; of Gru b_h (H,), constant, or absent
// outputs  y (T, B, H); last h (B, H); of Lstm last c (B, H)
// ints     1 where time runs backwards; f, g, of Lstm h: numbers of FloatFunction; of Gru 1 where
// it
//          is linear before reset; of WeightsReader
// floats   clip; alpha and beta of each function
#include <vector>

#include "elementwise/kernels.h"
#include "gemm_f32/weights.h"
#include "ops/rows.h"

namespace qtool {
namespace {

struct Activation {
  void (*function)(const FloatFunctionArgs&) noexcept;
  float alpha, beta;

  void run(float* x, int64_t n) const noexcept { function({x, x, n, alpha, beta}); }
};

class Recurrent : public Op {
 public:
  const char* kernel() const noexcept override { return isa_name(gemm_.isa); }

 protected:
  enum Input { kGates, kR, kScale, kZero, kH, kLengths, kMore };

  Recurrent(const OpView& op, int64_t n_gates, size_t weight_ints)
      : gates_(op.input(kGates).id),
        h_(op.input(kH).id),
        lengths_(op.has_input(kLengths) ? op.input(kLengths).id : -1),
        y_(op.output(0).id),
        last_h_(op.output(1).id),
        gemm_(select_gemm_f32(op.isa)),
        kernels_(select_elementwise(op.isa)),
        backwards_(op.integer(0, 0, 1) == 1),
        steps_(op.input(kGates).dims[0]),
        batch_(op.input(kGates).dims[1]),
        width_(op.input(kGates).columns / n_gates),
        clip_(op.finite(0)),
        weights_(op, kR, kScale, kZero, weight_ints, n_gates * width_, width_) {
    const Tensor& gates = op.input(kGates);
    op.require(gates.rank == 3 && gates.columns % n_gates == 0, "gates have a wrong shape");
    op.require(batch_ * gates.columns < (int64_t{1} << 31), "the batch is too large");
    require(op, gates, gates.size());
    require(op, op.output(0), steps_ * batch_ * width_);
    require(op, op.input(kH), batch_ * width_);
    require(op, op.output(1), batch_ * width_);
    if (lengths_ < 0) return;
    const Tensor& lengths = op.input(kLengths);
    op.require(lengths.dtype == DType::kInt32 && lengths.size() == batch_ && lengths.contiguous(),
               "lengths have a wrong type or size");
  }

  static void require(const OpView& op, const Tensor& t, int64_t size) {
    op.require(t.dtype == DType::kFloat32 && t.contiguous() && t.size() == size,
               "an operand has another type or size");
  }

  Activation activation(const OpView& op, size_t i) const {
    const auto f = FloatFunction(op.integer(1 + i, 0, int64_t(FloatFunction::kCount) - 1));
    return {kernels_.function(f), op.finite(1 + 2 * i), op.finite(2 + 2 * i)};
  }

  std::vector<float> vector(const OpView& op, size_t i, int64_t size) const {
    if (!op.has_input(i)) return {};
    const auto* values = op.constant<float>(i, DType::kFloat32, size);
    return {values, values + size};
  }

  // y (B, n) = h R^T (+ bias), for n rows of R.
  void multiply(const float* h, const WeightsF32& r, int64_t n, float* y,
                const float* bias = nullptr) const noexcept {
    r.run({batch_, n, width_, h, width_, nullptr, bias, y, n});
  }

  void clip(float* x, int64_t n) const noexcept {
    if (clip_ <= 0) return;
    for (int64_t i = 0; i < n; ++i) {
      const float above = x[i] < -clip_ ? -clip_ : x[i];
      x[i] = clip_ < above ? clip_ : above;
    }
  }

  // Calls prepare(gates of the step) and then, for each sequence that is still going on,
  // step(b, its state h), and writes its new state to y.
  template <typename Prepare, typename Step>
  void each_step(const Run& run, const Prepare& prepare, const Step& step) const noexcept {
    auto* h = run.at<float>(last_h_);
    const auto* first = run.at<const float>(h_);
    std::copy(first, first + batch_ * width_, h);
    const auto* lengths = lengths_ < 0 ? nullptr : run.at<const int32_t>(lengths_);
    const int64_t gates = batch_ * n_gates();
    for (int64_t i = 0; i < steps_; ++i) {
      const int64_t t = backwards_ ? steps_ - 1 - i : i;
      prepare(run.at<const float>(gates_) + t * gates, h);
      for (int64_t b = 0; b < batch_; ++b) {
        float* y = run.at<float>(y_) + (t * batch_ + b) * width_;
        if (lengths != nullptr && t >= lengths[b]) {
          std::fill(y, y + width_, 0.0f);
          continue;
        }
        step(b, h + b * width_);
        std::copy(h + b * width_, h + (b + 1) * width_, y);
      }
    }
  }

  virtual int64_t n_gates() const noexcept = 0;  // elements of the gates of one sequence

  const int32_t gates_, h_, lengths_, y_, last_h_;
  const GemmF32Variant& gemm_;
  const ElementwiseKernels& kernels_;
  const bool backwards_;
  const int64_t steps_, batch_, width_;
  const float clip_;
  const WeightsReader weights_;
};

class Lstm final : public Recurrent {
 public:
  explicit Lstm(const OpView& op)
      : Recurrent(op, 4, 4),
        c_(op.input(kMore).id),
        last_c_(op.output(2).id),
        f_(activation(op, 0)),
        g_(activation(op, 1)),
        out_(activation(op, 2)),
        peepholes_(vector(op, kMore + 1, 3 * width_)),
        r_(weights_.packed(gemm_, 0, 4 * width_)) {
    require(op, op.input(kMore), batch_ * width_);
    require(op, op.output(2), batch_ * width_);
  }

  size_t packed_bytes() const noexcept override { return r_.packed_bytes(); }
  size_t scratch_bytes() const noexcept override {
    return size_t((batch_ * 4 + 1) * width_) * sizeof(float);
  }

  void run(const Run& run) const noexcept override {
    auto* gates = reinterpret_cast<float*>(run.scratch);
    float* squashed = gates + 4 * batch_ * width_;
    auto* c = run.at<float>(last_c_);
    const auto* first = run.at<const float>(c_);
    std::copy(first, first + batch_ * width_, c);
    each_step(
        run,
        [&](const float* given, const float* h) {
          multiply(h, r_, 4 * width_, gates);
          for (int64_t i = 0; i < batch_ * 4 * width_; ++i) gates[i] += given[i];
        },
        [&](int64_t b, float* h) { step(gates + b * 4 * width_, c + b * width_, squashed, h); });
  }

 private:
  int64_t n_gates() const noexcept override { return 4 * width_; }

  void add_peephole(int64_t gate, const float* c, float* x) const noexcept {
    if (peepholes_.empty()) return;
    const float* p = peepholes_.data() + gate * width_;
    for (int64_t i = 0; i < width_; ++i) x[i] += p[i] * c[i];
  }

  void step(float* gates, float* c, float* squashed, float* h) const noexcept {
    float *in = gates, *out = in + width_, *forget = out + width_, *candidate = forget + width_;
    add_peephole(0, c, in);
    add_peephole(2, c, forget);
    if (peepholes_.empty()) {
      clip(gates, 4 * width_);
      f_.run(gates, 3 * width_);
    } else {
      clip(in, width_);
      clip(forget, 2 * width_);
      f_.run(in, width_);
      f_.run(forget, width_);
    }
    g_.run(candidate, width_);
    for (int64_t i = 0; i < width_; ++i) c[i] = forget[i] * c[i] + in[i] * candidate[i];
    if (!peepholes_.empty()) {
      add_peephole(1, c, out);
      clip(out, width_);
      f_.run(out, width_);
    }
    std::copy(c, c + width_, squashed);
    out_.run(squashed, width_);
    for (int64_t i = 0; i < width_; ++i) h[i] = out[i] * squashed[i];
  }

  const int32_t c_, last_c_;
  const Activation f_, g_, out_;
  const std::vector<float> peepholes_;
  const WeightsF32 r_;
};

class Gru final : public Recurrent {
 public:
  explicit Gru(const OpView& op)
      : Recurrent(op, 3, 4),
        f_(activation(op, 0)),
        g_(activation(op, 1)),
        linear_(op.integer(3, 0, 1) == 1),
        bias_(vector(op, kMore, width_)),
        r_gates_(weights_.packed(gemm_, 0, 2 * width_)),
        r_hidden_(weights_.packed(gemm_, 2 * width_, width_)) {}

  size_t packed_bytes() const noexcept override {
    return r_gates_.packed_bytes() + r_hidden_.packed_bytes();
  }
  size_t scratch_bytes() const noexcept override {
    return size_t(batch_ * width_ * 4) * sizeof(float);
  }

  void run(const Run& run) const noexcept override {
    auto* gates = reinterpret_cast<float*>(run.scratch);  // (B, 2 H): z, r
    float* reset = gates + 2 * batch_ * width_;
    float* hidden = reset + batch_ * width_;
    each_step(
        run, [&](const float* given, const float* h) { prepare(given, h, gates, reset, hidden); },
        [&](int64_t b, float* h) {
          const float *z = gates + b * 2 * width_, *made = hidden + b * width_;
          for (int64_t i = 0; i < width_; ++i) h[i] = (1 - z[i]) * made[i] + z[i] * h[i];
        });
  }

 private:
  int64_t n_gates() const noexcept override { return 3 * width_; }

  void prepare(const float* given, const float* h, float* gates, float* reset,
               float* hidden) const noexcept {
    multiply(h, r_gates_, 2 * width_, gates);
    for (int64_t b = 0; b < batch_; ++b) {
      float* row = gates + b * 2 * width_;
      for (int64_t i = 0; i < 2 * width_; ++i) row[i] += given[b * 3 * width_ + i];
    }
    clip(gates, 2 * batch_ * width_);
    f_.run(gates, 2 * batch_ * width_);
    if (linear_) multiply(h, r_hidden_, width_, hidden, bias_.empty() ? nullptr : bias_.data());
    for (int64_t b = 0; b < batch_; ++b) {
      const float *r = gates + (2 * b + 1) * width_, *from = (linear_ ? hidden : h) + b * width_;
      float* to = (linear_ ? hidden : reset) + b * width_;
      for (int64_t i = 0; i < width_; ++i) to[i] = r[i] * from[i];
    }
    if (!linear_) multiply(reset, r_hidden_, width_, hidden);
    for (int64_t b = 0; b < batch_; ++b) {
      const float* own = given + (3 * b + 2) * width_;
      for (int64_t i = 0; i < width_; ++i) hidden[b * width_ + i] += own[i];
    }
    clip(hidden, batch_ * width_);
    g_.run(hidden, batch_ * width_);
  }

  const Activation f_, g_;
  const bool linear_;
  const std::vector<float> bias_;
  const WeightsF32 r_gates_, r_hidden_;
};

class Rnn final : public Recurrent {
 public:
  explicit Rnn(const OpView& op)
      : Recurrent(op, 1, 2), f_(activation(op, 0)), r_(weights_.packed(gemm_, 0, width_)) {}

  size_t packed_bytes() const noexcept override { return r_.packed_bytes(); }
  size_t scratch_bytes() const noexcept override { return size_t(batch_ * width_) * sizeof(float); }

  void run(const Run& run) const noexcept override {
    auto* made = reinterpret_cast<float*>(run.scratch);
    each_step(
        run,
        [&](const float* given, const float* h) {
          multiply(h, r_, width_, made);
          for (int64_t i = 0; i < batch_ * width_; ++i) made[i] += given[i];
          clip(made, batch_ * width_);
          f_.run(made, batch_ * width_);
        },
        [&](int64_t b, float* h) { std::copy(made + b * width_, made + (b + 1) * width_, h); });
  }

 private:
  int64_t n_gates() const noexcept override { return width_; }

  const Activation f_;
  const WeightsF32 r_;
};

}  // namespace

std::unique_ptr<Op> make_lstm(const OpView& op) {
  op.counts(8, 3, 6, 7);
  return std::make_unique<Lstm>(op);
}

std::unique_ptr<Op> make_rnn(const OpView& op) {
  op.counts(6, 2, 4, 3);
  return std::make_unique<Rnn>(op);
}

std::unique_ptr<Op> make_gru(const OpView& op) {
  op.counts(7, 2, 6, 5);
  return std::make_unique<Gru>(op);
}

}  // namespace qtool
