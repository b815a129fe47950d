// Convolution where each output channel sees one input channel: depth is kernel_h * kernel_w taps.
//
// Channels lie in the vector. Taps are taken four at a time (a quad): the bytes of four pixels are
// interleaved, so that 32 bits hold four taps of a channel, and meet four weights. With a stride of
// 1, one quad of neighbouring pixels serves a run of outputs, each with its weights shifted by a
// tap. Where a vector has room for several pixels of all channels, it holds them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/epilogue.h"

namespace qtool {

constexpr int kMostRun = 4;          // outputs that share quads
constexpr int kVectors = 4;          // accumulators of an output
constexpr int kWideChannels = 64;    // of a block
constexpr int kNarrowChannels = 32;  // of the last block, where that is enough

// Outputs of a line for one block of channels, n of them, made `advance` at a time.
struct DepthwiseLine {
  const uint8_t* const* taps;  // (n_quads, 4): of the first output, channel 0
  int64_t at;                  // bytes from there to this block
  int64_t step;                // bytes from output to output
  int32_t n, advance;          // n >= advance
  int32_t n_quads;
  const int8_t* w;      // (n_quads, run, 4 vectors, lanes, 4)
  const int32_t* bias;  // in the order that interleaving makes, as scale
  const float* scale;
  const int32_t* plain;  // bias, scale, float_bias by channel, kWideChannels each
  bool has_float_bias, bounded;
  const Epilogue* epilogue;
  int32_t channels;  // of the block, the others are not stored
  uint8_t* y;        // the first output's
  int64_t y_pitch;   // bytes
  const uint8_t* residual;
  int64_t residual_pitch;
};

// All of the epilogue but its table.
using DepthwiseKernel = void (*)(const DepthwiseLine&) noexcept;

struct DepthwiseKernels {
  int widest;  // channels of a block: kWideChannels, kNarrowChannels or half of that
  bool pairs;  // weights are int16: those of taps 0 and 2, then those of 1 and 3
  DepthwiseKernel wide[kMostRun], narrow[kMostRun];  // by run - 1
  bool subtracts_128 = false;                        // from x: packing adds 128 sum w to the bias
};

extern const DepthwiseKernels kDepthwiseAvx512Vnni, kDepthwiseAvxVnni, kDepthwiseAvx2,
    kDepthwiseNeon, kDepthwiseNeonDot, kDepthwiseNeonI8mm;

// The channel of a block that a lane of a vector holds.
constexpr int channel_of(int vector, int lane) { return lane / 4 * 16 + vector * 4 + lane % 4; }

// The commonest case: bytes from 0 to 255 whose zero point is 0, as ReLU makes them.
inline bool stores_plain_bytes(const DepthwiseLine& l) {
  const Epilogue& e = *l.epilogue;
  return l.bounded && !e.has_residual && !e.float_output && e.y_zero_point == 0 && e.y_min == 0 &&
         e.y_max == 255;
}

}  // namespace qtool
