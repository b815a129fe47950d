// How values become streams of bytes: planes, codebooks, gaps between nonzero values, packed bits.
// Values are of 1, 2, 4 or 8 bytes, little-endian.
#pragma once

#include "codecs/bytes.h"

namespace qtool::codecs {

void count_bytes(const uint8_t* bytes, size_t n, uint64_t (&counts)[256]) noexcept;

// What a value x becomes before its bytes are split: the same value; rotated by one bit, so that
// a float's exponent is one byte; 2x, or -2x - 1 for x < 0; or the difference to the value before,
// of floats in their order as whole numbers, or of whole numbers as 2d or -2d - 1.
enum class Transform : uint8_t { kNone, kRotate, kZigzag, kFloatDelta, kDelta };
constexpr int kTransforms = 5;

// planes is (width, n): all lowest bytes first.
bool split_planes(const uint8_t* values, size_t n, int width, Transform transform,
                  uint8_t* planes) noexcept;
bool join_planes(const uint8_t* planes, size_t n, int width, Transform transform,
                 uint8_t* values) noexcept;

// The distinct values, at most 256, in the order of whole numbers, or of floats (negative ones
// first); empty where there are more. Then indices is filled.
Bytes find_codebook(const uint8_t* values, size_t n, int width, bool floats, uint8_t* indices);

// False if an index is beyond the codebook, of k values.
bool look_up(const uint8_t* indices, size_t n, int width, const uint8_t* codebook, size_t k,
             uint8_t* values) noexcept;

// Values whose bytes are not all 0.
size_t count_nonzero(const uint8_t* values, size_t n, int width) noexcept;
void take_nonzero(const uint8_t* values, size_t n, int width, uint8_t* nonzero) noexcept;

// A bit for each value, lowest first; 1 where it is not zero. Bits after the last are 0.
void write_mask(const uint8_t* values, size_t n, int width, uint8_t* mask) noexcept;
bool from_mask(const uint8_t* mask, size_t n, int width, const uint8_t* nonzero, size_t n_nonzero,
               uint8_t* values) noexcept;

// The zeros in front of each nonzero value, from 0 to most - 1; most stands for so many zeros and
// no value.
void write_gaps(const uint8_t* values, size_t n, int width, int most, Bytes& gaps);
bool from_gaps(const uint8_t* gaps, size_t n_gaps, size_t n, int width, int most,
               const uint8_t* nonzero, size_t n_nonzero, uint8_t* values) noexcept;

// Symbols below 2**bits, bits of 1 to 7, lowest first; false where bits after the last are not 0.
void pack_bits(const uint8_t* symbols, size_t n, int bits, uint8_t* packed) noexcept;
bool unpack_bits(const uint8_t* packed, size_t n, int bits, uint8_t* symbols) noexcept;

}  // namespace qtool::codecs
