// The frequency table of a rANS stream: how often each of 256 symbols comes, out of 2**bits.
#pragma once

#include "codecs/bytes.h"

namespace qtool::codecs {

constexpr int kMinTableBits = 8, kMaxTableBits = 14;

struct RansTable {
  int bits = 0;             // kMinTableBits .. kMaxTableBits
  uint32_t frequency[256];  // their sum is 2**bits
  uint32_t start[256];      // sums of the frequencies before
};

// The frequencies of these counts, of which at least one is not 0, and at most 2**bits are:
// largest remainders, but at least 1 where the count is not 0.
RansTable scaled_table(const uint64_t (&counts)[256], int bits);

// The table that makes stream and table together smallest.
RansTable best_table(const uint64_t (&counts)[256]);

// Bits, in units of 2**-16, of a stream of these counts; UINT64_MAX where the table lacks a symbol.
uint64_t stream_cost(const uint64_t (&counts)[256], const RansTable& table) noexcept;

void write_table(const RansTable& table, Bytes& out);

// False if the bytes are no table, or do not end with it.
bool read_table(Reader in, RansTable& table);

}  // namespace qtool::codecs
