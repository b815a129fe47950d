// The logistic function and its inverse in whole numbers, the same on every machine.
#pragma once

#include <cstdint>

namespace qtool::codecs {

constexpr int kStretchLimit = 2047;  // of x, in units of 2**-8

struct Logistic {
  uint16_t squash[2 * kStretchLimit + 1];  // 2**16 / (1 + exp(-x / 2**8)), at kStretchLimit + x
  int16_t stretch[4096];                   // of p in units of 2**-12: where squash passes it
};

const Logistic& logistic();

}  // namespace qtool::codecs
