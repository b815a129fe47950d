// LZ77 with adaptive binary coding: for graphs, in which the same strings come again and again.
//
// Each step is a literal, or a copy of what lies some distance back. Distances that are likely
// have short codes: the place where the last four bytes came before, and the four distances used
// last. What has not come yet may be copied from a dictionary, which lies in front of the data.
#pragma once

#include "codecs/bytes.h"

namespace qtool::codecs {

constexpr size_t kMostLz = size_t{1} << 28;  // symbols
constexpr size_t kMostLzDictionary = size_t{1} << 16;

struct Text {
  const uint8_t* bytes;
  size_t n;
};

// Appends the code of symbols (n,), n > 0, to out.
void lz_encode(const uint8_t* symbols, size_t n, Text dictionary, Bytes& out);

// False if the bytes are not exactly the code of n symbols.
bool lz_decode(Reader in, Text dictionary, uint8_t* out, size_t n);

}  // namespace qtool::codecs
