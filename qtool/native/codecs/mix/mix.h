// Adaptive binary arithmetic coding with mixed contexts: each bit of a symbol, highest first, is
// coded with a probability that several contexts give together,
//
//   p = squash(sum_i w[i] * stretch(p[i]))      squash(x) = 1 / (1 + exp(-x))
//
// with p[i] what context i has seen so far, and the weights w learned as the bits come. All in
// whole numbers, so that each machine writes and reads the same bytes.
#pragma once

#include "codecs/bytes.h"

namespace qtool::codecs {

enum class MixModel : uint8_t { kValues = 0, kText = 1 };

// What the contexts of kValues are: symbols near each other in the tensor.
struct MixLayout {
  uint8_t zero = 0;   // the symbol of least magnitude; symbols near it are of small magnitude
  uint64_t step = 1;  // elements back to the same kernel tap of the channel before
  uint64_t row = 1;   // elements back to the same place of the output channel before
};

constexpr uint64_t kMostMixed = uint64_t{1} << 28;

// Appends symbols (n,), n > 0, to out.
void mix_encode(const uint8_t* symbols, size_t n, MixModel model, const MixLayout& layout,
                Bytes& out);

// False if the bytes are not exactly a stream of n symbols.
bool mix_decode(Reader in, uint8_t* out, size_t n);

}  // namespace qtool::codecs
