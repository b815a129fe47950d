// The code lengths of a Huffman stream as bytes.
#pragma once

#include "codecs/huffman/huffman.h"

namespace qtool::codecs {

void write_lengths(const uint8_t (&lengths)[256], Bytes& out);

// False if they are no code: too many or too few bits for the symbols that are used.
bool read_lengths(Reader& in, uint8_t (&lengths)[256]);

// The codes, first bit lowest.
void canonical_codes(const uint8_t (&lengths)[256], uint16_t (&codes)[256]) noexcept;

}  // namespace qtool::codecs
