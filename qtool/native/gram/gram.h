// H = sum over calls of round(sum over p of x[p] x[p]^T, to units of 2**-kGramExponent)
//
// with the x of patches.h, a matrix of K + 1 rows for each group. The sum of a call is made in
// double, one p after the other; the sums of calls are added as 128-bit integers, so that neither
// the order of the calls, nor threads, nor shards change a bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "gram/kernels.h"
#include "gram/patches.h"

namespace qtool {

constexpr int kGramExponent = 63;
constexpr double kGramLimit = 0x1p62;  // |sum of a call| must be smaller

class Gram {
 public:
  // isa names the kernels to use, "" the fastest.
  Gram(int64_t groups, int64_t depth, const char* isa);

  // Adds the patches, whose groups and depth are this matrix's. False when a sum is not finite or
  // passes the range; the matrix is then partly updated. Any number of threads may call it.
  bool update(const Patches& patches);

  int64_t groups() const noexcept { return groups_; }
  int64_t depth() const noexcept { return depth_; }
  int64_t size() const noexcept { return depth_ + 1; }
  int64_t count() const;

  // Writes the upper triangles, (groups, size * (size + 1) / 2, 2): row by row, low word first.
  void read(uint64_t* values) const;

  // Bytes of a matrix, and what one update() takes for its own.
  static double state_bytes(int64_t groups, int64_t depth) noexcept;
  static double scratch_bytes(int64_t depth) noexcept;

 private:
  __extension__ using Int128 = __int128;

  void sum_group(const Patches& patches, int64_t group, std::vector<double>& packed,
                 std::vector<double>& sums) const noexcept;
  bool add_group(int64_t group, const std::vector<double>& sums) noexcept;

  const GramVariant& kernels_;
  const int64_t groups_, depth_;
  const size_t panels_;
  mutable std::mutex mutex_;
  int64_t count_ = 0;
  std::vector<Int128> state_;  // (groups, tiles, kTile, kTile); tile (i, j), i <= j, at tile_at
};

}  // namespace qtool
