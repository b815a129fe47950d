// MatMulFloat: y = a b (+ bias), float32; b (..., k, n), or (..., n, k) where it is transposed.
//
// inputs   a (..., m, k); b, its scale and zero point as WeightsReader has them where b is one
//          constant matrix; bias (n,), constant, may be absent
// ints     1 where b is transposed, as integers are; of WeightsReader
#include <vector>

#include "gemm_f32/weights.h"
#include "ops/batches.h"

namespace qtool {
namespace {

class MatMulFloat final : public Op {
 public:
  explicit MatMulFloat(const OpView& op)
      : a_(op.input(0).id),
        b_(op.input(1).id),
        y_(op.output(0).id),
        transposed_(op.integer(0, 0, 1) == 1),
        constant_(op.input(1).kind == Kind::kConstant && op.input(1).rank == 2),
        batches_(op, op.input(0), op.input(1), op.output(0), transposed_,
                 op.integer(1, 4, 32) == 4),
        gemm_(select_gemm_f32(op.isa)) {
    op.require(op.input(0).dtype == DType::kFloat32 && op.output(0).dtype == DType::kFloat32,
               "an operand is not float32");
    if (op.has_input(4)) {
      const auto* bias = op.constant<float>(4, DType::kFloat32, batches_.n);
      bias_.assign(bias, bias + batches_.n);
    }
    if (constant_) {
      const WeightsReader reader(op, 1, 2, 3, 1, batches_.n, batches_.k);
      op.require(transposed_ || op.integer(1, 4, 32) == 32, "integers are not transposed");
      weights_ = reader.packed(gemm_, 0, batches_.n, !transposed_);
      return;
    }
    op.require(op.integer(1, 32, 32) == 32 && op.input(1).dtype == DType::kFloat32,
               "b is not float32");
    op.require(!op.has_input(2) && !op.has_input(3), "b has no scale");
    op.require(batches_.k <= kMostDepth, "b is too large");
  }

  const char* kernel() const noexcept override { return isa_name(gemm_.isa); }
  size_t packed_bytes() const noexcept override { return weights_.packed_bytes(); }
  size_t scratch_bytes() const noexcept override {
    return constant_ ? 0 : gemm_.packed_bytes(std::min(columns(), batches_.n), batches_.k);
  }

  void run(const Run& run) const noexcept override {
    const auto n_batches = int64_t(batches_.starts.size()), threads = int64_t(run.pool->threads());
    const int64_t blocks = (batches_.n + columns() - 1) / columns();
    const int64_t parts = n_batches * blocks >= threads ? 1 : std::min(batches_.m, threads);
    const int64_t work = 1 + batches_.m * std::min(columns(), batches_.n) * batches_.k / parts;
    run.pool->split(n_batches * blocks * parts, 1 + 4 * kLeastElements / work,
                    [&](int64_t begin, int64_t end, int thread) {
                      for (int64_t i = begin; i < end; ++i) {
                        run_block(run, i / blocks / parts, i % blocks, i / blocks % parts, parts,
                                  thread);
                      }
                    });
  }

 private:
  static constexpr int64_t kPanels = 4;  // that are multiplied with all rows before the next ones
  static constexpr int64_t kMostDepth = int64_t{1} << 28;

  int64_t columns() const noexcept { return kPanels * gemm_.panel; }

  void run_block(const Run& run, int64_t batch, int64_t block, int64_t part, int64_t parts,
                 int thread) const noexcept {
    const auto& start = batches_.starts[size_t(batch)];
    const int64_t k = batches_.k, n = batches_.n, first = block * columns();
    const int64_t last = std::min(n, first + columns());
    const int64_t row = batches_.m * part / parts, end = batches_.m * (part + 1) / parts;
    const float* bias = bias_.empty() ? nullptr : bias_.data();
    GemmF32Args args{end - row, n,       k,    run.at<const float>(a_) + start.first + row * k,
                     k,         nullptr, bias, run.at<float>(y_) + (batch * batches_.m + row) * n,
                     n};
    if (constant_) {
      weights_.run(args, first, last);
      return;
    }
    auto* w = reinterpret_cast<float*>(run.scratch + size_t(thread) * run.scratch_pitch);
    const float* b = run.at<const float>(b_) + start.second + first * (transposed_ ? k : 1);
    gemm_.pack(b, last - first, k, transposed_ ? k : 1, transposed_ ? 1 : n, w);
    args.w = w, args.n = last - first, args.y += first;
    if (bias != nullptr) args.bias += first;
    gemm_.run(args);
  }

  int32_t a_, b_, y_;
  bool transposed_, constant_;
  Batches batches_;
  const GemmF32Variant& gemm_;
  std::vector<float> bias_;
  WeightsF32 weights_;
};

}  // namespace

std::unique_ptr<Op> make_matmul_float(const OpView& op) {
  op.counts(5, 1, 3, 0);
  return std::make_unique<MatMulFloat>(op);
}

}  // namespace qtool
