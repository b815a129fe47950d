#include "codecs/mix/logistic.h"

namespace qtool::codecs {
namespace {

constexpr uint64_t kOne = uint64_t{1} << 62;
constexpr uint64_t kStep = UINT64_C(4593706758521714574);  // 2**62 * exp(-1 / 2**8)

Logistic made() {
  Logistic result{};
  uint64_t power = kOne;  // exp(-x / 2**8)
  for (int x = 0; x <= kStretchLimit; ++x) {
    const auto p =
        static_cast<uint32_t>((static_cast<unsigned __int128>(kOne) << 16) / (kOne + power));
    result.squash[kStretchLimit + x] = static_cast<uint16_t>(p > 65535 ? 65535 : p);
    result.squash[kStretchLimit - x] = static_cast<uint16_t>(65536 - p < 1 ? 1 : 65536 - p);
    power = static_cast<uint64_t>(static_cast<unsigned __int128>(power) * kStep >> 62);
  }
  int x = -kStretchLimit;
  for (int p = 0; p < 4096; ++p) {
    while (x < kStretchLimit && result.squash[kStretchLimit + x] < p * 16 + 8) ++x;
    result.stretch[p] = static_cast<int16_t>(x);
  }
  result.squash[kStretchLimit] = 32768;
  return result;
}

}  // namespace

const Logistic& logistic() {
  static const Logistic tables = made();
  return tables;
}

}  // namespace qtool::codecs
