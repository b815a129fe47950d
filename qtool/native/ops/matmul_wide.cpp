// MatMulWide: y = the product of two matrices of integers that are computed at run time.
//
//   acc = sum of (a - a_zero) * (b - b_zero), in int64
//
// inputs   a, b uint8, uint16 or int16 (..., m, k), (..., k, n); scale float32 as WideEpilogue has
//          it; a zero uint8 (1,), b zero uint8 (1,) or (n,), absent where the parameters have them
// outputs  y (..., m, n) as WideEpilogue has it
// ints     a zero point, b zero point; of WideEpilogue
#include "ops/batches.h"
#include "ops/wide_operand.h"
#include "runtime/memory.h"

namespace qtool {
namespace {

enum Input { kA, kB, kScale, kAZero, kBZero };

class MatMulWide final : public Op {
 public:
  explicit MatMulWide(const OpView& op)
      : a_(op.input(kA).id),
        b_(op.input(kB).id),
        a_zeros_(zeros(op, kAZero)),
        b_zeros_(zeros(op, kBZero)),
        y_(op.output(0)),
        of_a_(op, op.input(kA).dtype),
        of_b_(op, op.input(kB).dtype),
        batches_(op, op.input(kA), op.input(kB), y_, false),
        product_(op.isa, batches_.n, batches_.k, of_a_.bits()),
        epilogue_(op, product_.variant(), y_, batches_.n, kScale, 2),
        a_zero_(int32_t(op.integer(0, of_a_.lowest, of_a_.highest))),
        b_zero_(int32_t(op.integer(1, of_b_.lowest, of_b_.highest))) {
    op.require(batches_.k < (int64_t{1} << 28), "the depth is too large");
    op.require(a_zeros_ < 0 || (of_a_.narrow() && op.input(kAZero).size() == 1),
               "a has several zero points");
    op.require(!op.has_input(kScale) || op.input(kScale).kind == Kind::kConstant,
               "scale is not constant");
    if (b_zeros_ < 0) return;
    per_column_ = op.input(kBZero).size() > 1;
    op.require(of_b_.narrow() && (!per_column_ || op.input(kBZero).size() == batches_.n),
               "b has another number of zero points");
  }

  const char* kernel() const noexcept override { return isa_name(product_.variant().isa); }
  size_t scratch_bytes() const noexcept override {
    return size_t(halves()) * b_bytes() +
           size_t(WideProduct::kRows * product_.row_pitch()) * sizeof(int16_t);
  }

  void run(const Run& run) const noexcept override {
    const auto n = int64_t(batches_.starts.size());
    run.pool->split(n, 1, [&](int64_t begin, int64_t end, int thread) {
      uint8_t* scratch = run.scratch + size_t(thread) * run.scratch_pitch;
      for (int64_t batch = begin; batch < end; ++batch) run_batch(run, batch, scratch);
    });
  }

 private:
  static int32_t zeros(const OpView& op, size_t i) {
    if (!op.has_input(i)) return -1;
    op.require(op.input(i).dtype == DType::kUint8 && op.input(i).contiguous(),
               "zero points are not uint8");
    return op.input(i).id;
  }

  // b of 16 bits is 256 * high + low, less 128 where that makes it int8.
  int halves() const noexcept { return of_b_.narrow() ? 1 : 2; }
  size_t b_bytes() const noexcept { return aligned(product_.packed_bytes()); }

  // What is taken off b before it is cut into halves, and off the low half.
  int32_t b_middle() const noexcept { return of_b_.dtype == DType::kUint16 ? 32768 : 0; }

  template <typename T>
  void pack(const T* b, int8_t* to) const noexcept {
    std::fill(to, to + size_t(halves()) * b_bytes(), int8_t{0});
    int8_t* const high = to + b_bytes();
    for (int64_t i = 0; i < batches_.k; ++i) {
      for (int64_t j = 0; j < batches_.n; ++j, ++b) {
        const int64_t at = product_.place(j, i);
        if constexpr (sizeof(T) == 1) {
          to[at] = int8_t(int32_t{*b} - 128);
        } else {
          const int32_t value = int32_t{*b} - b_middle();
          to[at] = int8_t((value & 255) - 128);
          high[at] = int8_t(value >> 8);
        }
      }
    }
  }

  void run_batch(const Run& run, int64_t batch, uint8_t* scratch) const noexcept {
    const auto& start = batches_.starts[size_t(batch)];
    auto* w = reinterpret_cast<int8_t*>(scratch);
    with_wide(of_b_.dtype,
              [&](auto type) { pack(run.at<const decltype(type)>(b_) + start.second, w); });
    auto* rows = reinterpret_cast<int16_t*>(scratch + size_t(halves()) * b_bytes());
    for (int64_t first = 0; first < batches_.m; first += WideProduct::kRows) {
      const int64_t m = std::min(WideProduct::kRows, batches_.m - first);
      run_rows(run, start.first + first * batches_.k, batch * batches_.m + first, m, w, rows);
    }
  }

  // Returns the sum of (a - a_zero) over a row that is laid out less `middle`.
  template <typename T>
  int64_t lay_out(const T* a, int32_t zero, int16_t* row) const noexcept {
    const int32_t middle = of_a_.middle(zero);
    int64_t sum = 0;
    for (int64_t k = 0; k < batches_.k; ++k) {
      row[k] = int16_t(int32_t{a[k]} - middle);
      sum += row[k];
    }
    if (product_.row_pitch() > batches_.k) row[batches_.k] = 0;
    return sum + batches_.k * (int64_t{middle} - zero);
  }

  // acc = sum (a - middle) (b' ...) of a panel, made whole: see the terms below.
  void run_rows(const Run& run, int64_t from, int64_t row, int64_t m, const int8_t* w,
                int16_t* rows) const noexcept {
    int64_t acc[WideProduct::kRows][kPanelS16], more[WideProduct::kRows][kPanelS16];
    int64_t sums[WideProduct::kRows];
    const int32_t a_zero = a_zeros_ < 0 ? a_zero_ : int32_t{*run.at<const uint8_t>(a_zeros_)};
    for (int64_t i = 0; i < m; ++i) {
      with_wide(of_a_.dtype, [&](auto type) {
        sums[i] = lay_out(run.at<const decltype(type)>(a_) + from + i * batches_.k, a_zero,
                          rows + i * product_.row_pitch());
      });
    }
    const int64_t item = int64_t(item_bytes(y_.dtype)), n = batches_.n;
    const int64_t rest = int64_t{of_a_.middle(a_zero)} - a_zero;  // a - a_zero = row + rest
    for (int64_t panel = 0; panel < product_.panels(); ++panel) {
      product_.run(rows, m, w, panel, acc);
      if (halves() == 2) {
        product_.run(rows, m, w + b_bytes(), panel, more);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t c = 0; c < kPanelS16; ++c) acc[i][c] += 256 * more[i][c];
        }
      }
      const int64_t j = panel * kPanelS16, some = std::min(kPanelS16, n - j);
      for (int64_t c = 0; c < some; ++c) {
        // b = packed + 128 + b_middle, so b - b_zero = packed + off.
        const int64_t off = 128 + b_middle() - b_zero(run, j + c);
        const int64_t packed = rest == 0 ? 0 : rest * column_sum(w, j + c);
        for (int64_t i = 0; i < m; ++i) acc[i][c] += sums[i] * off + packed;
      }
      for (int64_t i = 0; i < m; ++i) {
        epilogue_.store(acc[i], j, some, run.at<uint8_t>(y_.id) + ((row + i) * n + j) * item);
      }
    }
  }

  int64_t b_zero(const Run& run, int64_t j) const noexcept {
    return b_zeros_ < 0 ? b_zero_ : run.at<const uint8_t>(b_zeros_)[per_column_ ? j : 0];
  }

  int64_t column_sum(const int8_t* w, int64_t j) const noexcept {
    int64_t sum = 0;
    for (int64_t k = 0; k < batches_.k; ++k) {
      const int64_t at = product_.place(j, k);
      sum += w[at] + (halves() == 2 ? 256 * int64_t{w[int64_t(b_bytes()) + at]} : 0);
    }
    return sum;
  }

  int32_t a_, b_, a_zeros_, b_zeros_;
  Tensor y_;
  WideOperand of_a_, of_b_;
  Batches batches_;
  WideProduct product_;
  WideEpilogue epilogue_;
  int32_t a_zero_, b_zero_;
  bool per_column_ = false;
};

}  // namespace

std::unique_ptr<Op> make_matmul_wide(const OpView& op) {
  op.counts(5, 1, 5, 0);
  return std::make_unique<MatMulWide>(op);
}

}  // namespace qtool
