// The constant weights of a float product, packed once: floats, or integers of 8 or 4 bits that
// become floats a panel at a time while they are used, so that they stay small in memory.
//
//   w[k][j] = (q[j][k] - zero[j][k / block]) * scale[j][k / block]
#pragma once

#include <vector>

#include "gemm_f32/gemm_f32.h"
#include "runtime/memory.h"
#include "runtime/op.h"

namespace qtool {

class WeightsF32 {
 public:
  WeightsF32() = default;

  // w[j * column_step + i * row_step] for column j and depth i.
  WeightsF32(const GemmF32Variant& gemm, const float* w, int64_t n, int64_t k, int64_t column_step,
             int64_t row_step);

  struct Integers {
    const int8_t* q;     // (n, k); of 4 bits (n, (k + 1) / 2), the first in the low half, 0 .. 15
    const float* scale;  // (n, blocks)
    const int8_t* zero;  // (n, blocks) or null
    int64_t block;       // elements of the depth with one scale
    bool halves;
  };

  WeightsF32(const GemmF32Variant& gemm, const Integers& w, int64_t n, int64_t k);

  // y = x w + bias for columns begin .. end - 1, where begin is a multiple of the panel; args has
  // all columns, no w, and k is that of the weights.
  void run(const GemmF32Args& args, int64_t begin, int64_t end) const noexcept;
  void run(const GemmF32Args& args) const noexcept { run(args, 0, args.n); }

  size_t packed_bytes() const noexcept { return packed_.size() + scales_.size() * sizeof(float); }

 private:
  void run_integers(GemmF32Args args, int64_t panel) const noexcept;

  const GemmF32Variant* gemm_ = nullptr;
  Memory packed_;
  std::vector<float> scales_;  // [panel][block][scale, zero][column]; none of floats
  int64_t k_ = 0, block_ = 0, n_blocks_ = 0;
  bool halves_ = false;
};

// How the operands of an op give the weights of a product of depth k.
//
// inputs at, at + 1, at + 2: w float32 or int8 (4 bits: uint8); scale float32 (n, blocks); zero
//          point int8 (n, blocks) or absent; scale absent for floats
// ints from: bits 32, 8 or 4; block
class WeightsReader {
 public:
  WeightsReader(const OpView& op, size_t w, size_t scale, size_t zero, size_t ints, int64_t n,
                int64_t k);

  // Columns first .. first + n - 1; floats are (n, k), or (k, n) where rows_first.
  WeightsF32 packed(const GemmF32Variant& gemm, int64_t first, int64_t n,
                    bool rows_first = false) const;

 private:
  int64_t n_, k_, n_blocks_ = 0;
  const float* floats_ = nullptr;
  WeightsF32::Integers integers_{};
};

}  // namespace qtool
