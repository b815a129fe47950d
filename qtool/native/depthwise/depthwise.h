// Convolution where each output channel sees one input channel: depth is kernel_h * kernel_w taps.
//
// Channels lie in the vector. Taps are taken four at a time (a quad): the bytes of four pixels are
// interleaved, so that 32 bits hold four taps of a channel, and meet four weights. With a stride of
// 1, one quad of neighbouring pixels serves several outputs, each with its weights shifted by a
// tap.
//
// Interleaving leaves channels in the order that kOrder tells; bias, scale and weights are packed
// the same way, as [block of channels][quad][output of the run][vector][lane][4].
#pragma once

#include "conv/plan.h"

namespace qtool {

constexpr int kMostRun = 4;          // outputs computed together
constexpr int kVectors = 4;          // accumulators per output
constexpr int kWideChannels = 64;    // of a block
constexpr int kNarrowChannels = 32;  // of the last block, where that is enough

// Some outputs of a line, for one block of channels.
struct DepthwiseLine {
  const uint8_t* x;  // where the first window begins
  int64_t step;      // bytes from window to window
  int32_t n;         // outputs, at least run
  int32_t n_quads;
  const int32_t* offsets;  // (n_quads, 4): bytes from the window to the taps
  const int8_t* w;
  const int32_t* bias;  // in packed order, as scale
  const float* scale;
  const int32_t* plain_constants;  // bias, scale, float_bias by channel, kWideChannels each
  bool has_float_bias;
  const Epilogue* epilogue;
  int32_t channels;  // of the block, the others are not stored
  uint8_t* y;        // the first output's
  int64_t y_pitch;   // bytes
  const uint8_t* residual;
  int64_t residual_pitch;
};

using DepthwiseKernel = void (*)(const DepthwiseLine&) noexcept;

struct DepthwiseKernels {
  int widest;  // channels of a block: kWideChannels or kNarrowChannels
  bool pairs;  // weights are int16, those of taps 0 and 2, then those of 1 and 3
  DepthwiseKernel wide[kMostRun], narrow[kMostRun];  // by run - 1
};

extern const DepthwiseKernels kDepthwiseAvx512Vnni, kDepthwiseAvxVnni, kDepthwiseAvx2;

// The channel of a block that lane `lane` of vector `vector` holds.
constexpr int channel_of(int vector, int lane) { return lane / 4 * 16 + vector * 4 + lane % 4; }

}  // namespace qtool
