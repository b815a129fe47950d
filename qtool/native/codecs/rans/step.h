// One step of one lane: the definition.
#pragma once

#include "codecs/rans/rans.h"

namespace qtool::codecs {

// Returns the symbol that state x gives, and moves x on but for the word that it may need.
static inline uint8_t rans_step(const RansSlots& slots, uint32_t& x) noexcept {
  const uint32_t slot = x & slots.mask;
  const uint8_t symbol = slots.symbols[slot];
  const uint32_t numbers = slots.numbers[symbol];
  x = (numbers >> 16) * (x >> slots.bits) + slot - (numbers & 0xFFFF);
  return symbol;
}

}  // namespace qtool::codecs
