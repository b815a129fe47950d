#include <cstring>

#include "codecs/rans/step.h"

namespace qtool::codecs {

size_t rans_decode__scalar(RansArgs& args) noexcept {
  const RansSlots& slots = *args.slots;
  uint32_t states[kManyLanes];
  std::memcpy(states, args.states, sizeof states);
  size_t group = 0;
  for (; group < args.n_groups && args.end - args.words >= 2 * kManyLanes; ++group) {
    uint8_t* const out = args.out + group * kManyLanes;
    for (int lane = 0; lane < kManyLanes; ++lane) {
      uint32_t x = states[lane];
      out[lane] = rans_step(slots, x);
      uint16_t word;
      std::memcpy(&word, args.words, 2);
      const bool low = x < kLowest;
      states[lane] = low ? x << 16 | word : x;
      args.words += low ? 2 : 0;
    }
  }
  std::memcpy(args.states, states, sizeof states);
  return group;
}

}  // namespace qtool::codecs
