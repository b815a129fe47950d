#include "gram/patches.h"

#include "gram/kernels.h"

namespace qtool {
namespace {

constexpr size_t kChunk = 64;  // positions whose coordinates are worked out once

struct Origins {  // of the windows of a chunk
  const float* sample[kChunk];
  int64_t depth[kChunk], height[kChunk], width[kChunk];
};

void locate(const Patches& patches, int64_t first, size_t n, Origins& origins) noexcept {
  const int64_t sample_size =
      patches.groups * patches.channels * patches.size[0] * patches.size[1] * patches.size[2];
  for (size_t i = 0; i < n; ++i) {
    int64_t p = first + static_cast<int64_t>(i);
    origins.width[i] = p % patches.output[2] * patches.stride[2] - patches.pad[2];
    p /= patches.output[2];
    origins.height[i] = p % patches.output[1] * patches.stride[1] - patches.pad[1];
    p /= patches.output[1];
    origins.depth[i] = p % patches.output[0] * patches.stride[0] - patches.pad[0];
    origins.sample[i] = patches.input + p / patches.output[0] * sample_size;
  }
}

bool inside(int64_t index, int64_t size) noexcept {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(size);
}

// One k of all positions of a chunk. offset is where its channel begins in a sample.
void pack_column(const Patches& patches, const Origins& origins, size_t n, int64_t offset,
                 const int64_t (&shift)[3], double* column) noexcept {
  const int64_t* size = patches.size;
  for (size_t i = 0; i < n; ++i) {
    const int64_t d = origins.depth[i] + shift[0], h = origins.height[i] + shift[1],
                  w = origins.width[i] + shift[2];
    const bool there = inside(d, size[0]) && inside(h, size[1]) && inside(w, size[2]);
    column[i * kTile] =
        there ? double{origins.sample[i][offset + (d * size[1] + h) * size[2] + w]} : 0.0;
  }
}

void pack_chunk(const Patches& patches, int64_t group, const Origins& origins, size_t n,
                size_t panel_size, double* packed) noexcept {
  const int64_t channel_size = patches.size[0] * patches.size[1] * patches.size[2];
  size_t k = 0;
  const auto column = [&] { return packed + k / kTile * panel_size + k % kTile; };
  for (int64_t c = 0; c < patches.channels; ++c) {
    const int64_t offset = (group * patches.channels + c) * channel_size;
    for (int64_t kd = 0; kd < patches.kernel[0]; ++kd) {
      for (int64_t kh = 0; kh < patches.kernel[1]; ++kh) {
        for (int64_t kw = 0; kw < patches.kernel[2]; ++kw, ++k) {
          const int64_t shift[3] = {kd * patches.dilation[0], kh * patches.dilation[1],
                                    kw * patches.dilation[2]};
          pack_column(patches, origins, n, offset, shift, column());
        }
      }
    }
  }
  for (double fill = 1; k % kTile != 0 || fill == 1; ++k, fill = 0) {
    for (size_t i = 0; i < n; ++i) column()[i * kTile] = fill;
  }
}

}  // namespace

void pack(const Patches& patches, int64_t group, int64_t first, size_t n, double* packed) noexcept {
  Origins origins;
  for (size_t done = 0; done < n; done += kChunk) {
    const size_t chunk = n - done < kChunk ? n - done : kChunk;
    locate(patches, first + static_cast<int64_t>(done), chunk, origins);
    pack_chunk(patches, group, origins, chunk, n * kTile, packed + done * kTile);
  }
}

}  // namespace qtool
