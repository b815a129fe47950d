// Canonical Huffman codes of at most 12 bits, in 4 streams of bits.
//
// Codes are given out in the order of (length, symbol), counting up, as in RFC 1951, 3.2.2, and are
// written with their first bit lowest. Stream k holds the k-th quarter of the symbols.
#pragma once

#include "codecs/bytes.h"

namespace qtool::codecs {

constexpr int kMaxCodeBits = 12;
constexpr int kStreams = 4;

// Code lengths of least total size that are at most kMaxCodeBits, by package-merge (Larmore and
// Hirschberg 1990); 0 where the count is 0. One symbol alone gets length 1.
void code_lengths(const uint64_t (&counts)[256], uint8_t (&lengths)[256]);

// Appends lengths, stream sizes and streams of symbols (n,), n > 0, to out.
void huffman_encode(const uint8_t* symbols, size_t n, const uint8_t (&lengths)[256], Bytes& out);

// Bytes that huffman_encode needs at most, up to the rounding of its streams.
uint64_t huffman_size(const uint64_t (&counts)[256], const uint8_t (&lengths)[256]);

// False if the bytes are not exactly streams of n symbols.
bool huffman_decode(Reader in, uint8_t* out, size_t n);

}  // namespace qtool::codecs
