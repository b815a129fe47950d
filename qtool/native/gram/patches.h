// x[p][k] = input[n][group * C + c][d][h][w] of the window that ends in output position p, with
//   k = ((c * KD + kd) * KH + kh) * KW + kw     d = od * stride - pad + kd * dilation, ...
//   p = ((n * OD + od) * OH + oh) * OW + ow     0 outside of the input
// and x[p][K] = 1. Rows of a matrix are the case of a 1 x 1 x 1 window over (rows, K, 1, 1, 1).
#pragma once

#include <cstddef>
#include <cstdint>

namespace qtool {

struct Patches {
  const float* input;  // (samples, groups * channels, size[0], size[1], size[2])
  int64_t samples, groups, channels;
  int64_t size[3], kernel[3], stride[3], dilation[3], pad[3], output[3];  // depth, height, width

  int64_t positions() const noexcept { return samples * output[0] * output[1] * output[2]; }
  int64_t depth() const noexcept { return channels * kernel[0] * kernel[1] * kernel[2]; }
};

// Writes x[p][k] of n positions from first on, for the K + 1 values of k and 0 up to a multiple of
// kTile, to packed (panels, n, kTile): panel k / kTile, row p - first, lane k % kTile.
void pack(const Patches& patches, int64_t group, int64_t first, size_t n, double* packed) noexcept;

}  // namespace qtool
