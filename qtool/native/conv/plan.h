// How a convolution is cut into blocks, and where its windows lie in memory.
//
// A window is what one output pixel needs: segments of adjacent bytes at the same distances from
// where the window begins, whatever the pixel. Where windows leave the image, a block of the image
// is first copied to scratch memory with a border of zero points, so kernels know no padding.
// Taps of a row that lie side by side in memory are one segment: depth is summed over segments.
#pragma once

#include "conv/conv.h"

namespace qtool {

struct ConvPlan {
  bool copied;  // blocks are copied with their borders
  bool flat;    // all windows are `step` apart, from one row or image to the next as well
  int32_t group_in, group_out;
  int64_t window_h, window_w;  // pixels from one end of a window to the other
  int64_t row_w;               // pixels in a row of what is read
  int64_t pitch;               // bytes between pixels of what is read
  int64_t step;                // bytes between windows of neighbouring pixels
  int32_t n_segments, segment_bytes;
  int32_t line;         // pixels of an output line; all of them when flat
  int32_t block_lines;  // lines of a block (of one image), pixels when flat
  int64_t n_blocks;
  size_t copy_bytes;  // of a block with its borders, 0 unless copied

  int32_t block_pixels() const noexcept { return flat ? block_lines : block_lines * line; }
  int64_t offset(const ConvArgs& args, int32_t segment) const noexcept;
};

constexpr size_t kOverread = 64;  // bytes that kernels may read beyond a window, unused
constexpr size_t kMostCopyBytes = 64 << 20;
constexpr int64_t kNearBlock = 40 << 10;  // bytes read and written, most of the first cache

// Flat blocks are multiples of tile_pixels; 0 keeps lines apart. While weights fit the second
// cache, blocks take block_bytes.
ConvPlan plan_conv(const ConvArgs& args, int32_t tile_pixels,
                   int64_t block_bytes = kNearBlock) noexcept;

// Whether the kernels' 32-bit offsets hold, and scratch memory stays within reason.
bool plan_fits(const ConvArgs& args, const ConvPlan& plan) noexcept;

// A block of pixels. The window of pixel i of line j begins at x + j * line_step + i * step, for
// the first group.
struct ConvBlock {
  int64_t first_pixel;
  int32_t n_pixels, n_lines;  // a flat block is one line
  const uint8_t* x;
  int64_t line_step;
};

// Copies what the block needs to `copy` if the plan says so, unless call.held knows it there.
ConvBlock open_block(const ConvCall& call, const ConvPlan& plan, int64_t index,
                     uint8_t* copy) noexcept;

}  // namespace qtool
