// What is coded at each step, and with which chances. Encoder, decoder and the search for the
// cheapest steps run the same code: `code_bit(coder, chance, bit)` codes, decodes, counts, or adds
// up what a bit would cost.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "codecs/binary_coder.h"
#include "codecs/lz/lz.h"

namespace qtool::codecs::lz {

// The chance of a 1 in units of 2**-16. It moves fast at first, then by 1 / 2**kSlow.
struct Chance {
  static constexpr int kSlow = 4;
  uint16_t p = 1u << 15;
  uint16_t seen = 0;

  uint32_t probability() const noexcept { return std::clamp<uint32_t>(p, 512, 65024); }

  void see(int bit) noexcept {
    const int rate = std::min(seen + 1, kSlow);
    if (seen < kSlow) ++seen;
    p = static_cast<uint16_t>(bit ? p + ((65535 - p) >> rate) : p - (p >> rate));
  }
};

// A bit under two chances, of which the finer one counts the more it has seen.
inline uint32_t blended(const Chance& coarse, const Chance& fine) noexcept {
  static constexpr uint32_t kShare[Chance::kSlow + 1] = {0, 4, 6, 8, 10};  // of 16
  const uint32_t share = kShare[fine.seen];
  return (coarse.probability() * (16 - share) + fine.probability() * share) >> 4;
}

inline int code_bit(BinaryEncoder& coder, Chance& coarse, Chance& fine, int bit) {
  coder.code(bit, blended(coarse, fine));
  coarse.see(bit);
  fine.see(bit);
  return bit;
}

inline int code_bit(BinaryDecoder& coder, Chance& coarse, Chance& fine, int) {
  const int bit = coder.code(blended(coarse, fine));
  coarse.see(bit);
  fine.see(bit);
  return bit;
}

inline int code_even(BinaryEncoder& coder, int bit) {
  coder.code(bit, 1u << 15);
  return bit;
}

inline int code_even(BinaryDecoder& coder, int) { return coder.code(1u << 15); }

enum Kind : int { kLiteral = 0, kNear = 1, kFar = 2 };  // near: a distance that has a short code

constexpr int kRecent = 4;                   // distances used last
constexpr int kNearBy = kRecent + 1;         // and, first, the one that the bytes before foretell
constexpr uint32_t kShortest[] = {1, 1, 2};  // bytes of a step of each kind
constexpr int kContext = 4;                  // bytes that foretell the next ones
constexpr int kWidths = 33;                  // of numbers

// What the last steps were.
struct State {
  int last = kLiteral, before = kLiteral;
  std::array<uint32_t, kRecent> distances = {1, 2, 3, 4};

  size_t index() const noexcept { return static_cast<size_t>(3 * last + before); }

  void take(int kind) noexcept {
    before = last;
    last = kind;
  }

  // Puts a distance in front of those used last.
  void use(uint32_t distance) noexcept {
    size_t at = 0;
    while (at + 1 < kRecent && distances[at] != distance) ++at;
    for (; at > 0; --at) distances[at] = distances[at - 1];
    distances[0] = distance;
  }
};

template <typename Bit>
struct Model {
  Bit is_copy[9], is_far[9], which[9][kNearBy];
  Bit width_of_length[3][kWidths], low_of_length[2][kWidths][16];
  Bit width_of_distance[3][kWidths], low_of_distance[kWidths][8];
  std::vector<Bit> literals = std::vector<Bit>(256 * 256);
  Bit single[256], expected[256][8];

  template <typename Coder>
  int kind(Coder& coder, const State& state, int value) {
    const size_t s = state.index();
    if (!code_bit(coder, is_copy[s], value != kLiteral)) return kLiteral;
    return code_bit(coder, is_far[s], value == kFar) ? kFar : kNear;
  }

  // Which of the near distances.
  template <typename Coder>
  int near_one(Coder& coder, const State& state, int value) {
    int k = 0;
    while (k < kNearBy - 1 && code_bit(coder, which[state.index()][k], value > k)) ++k;
    return k;
  }

  // A number from 0: how many bits value + 1 has, by ones and a zero, then its bits below the
  // highest; the first of them in contexts. Above 2**28 it is damaged: 2**29 comes back.
  template <typename Coder, size_t n>
  uint32_t number(Coder& coder, Bit* width, Bit (&low)[kWidths][n], uint32_t value) {
    const uint32_t plus = value + 1;
    const int bits = 32 - __builtin_clz(plus);
    int w = 1;
    while (code_bit(coder, width[w], bits > w)) {
      if (++w > 29) return 1u << 29;
    }
    uint32_t result = 1;
    for (int k = w - 2; k >= 0; --k) {
      const int bit = static_cast<int>(plus >> k & 1);
      const uint32_t got = static_cast<uint32_t>(result < n ? code_bit(coder, low[w][result], bit)
                                                            : code_even(coder, bit));
      result = result << 1 | got;
    }
    return result - 1;
  }

  template <typename Coder>
  uint32_t length(Coder& coder, int kind, int near, uint32_t value) {
    const int set = kind == kFar;
    Bit* width = width_of_length[set ? 0 : near == 0 ? 1 : 2];
    return number(coder, width, low_of_length[set], value - kShortest[kind]) + kShortest[kind];
  }

  template <typename Coder>
  uint32_t distance(Coder& coder, uint32_t length, uint32_t value) {
    Bit* width = width_of_distance[std::min<uint32_t>(length, 4) - 2];
    return number(coder, width, low_of_distance, value - 1) + 1;
  }

  // A byte after `before`, where a copy from the likeliest distance would have brought `foretold`;
  // foretold < 0: there is none.
  template <typename Coder>
  int literal(Coder& coder, int before, int foretold, int value) {
    int node = 1, k = 7;
    for (bool same = foretold >= 0; same && k >= 0; --k) {
      const int bit = code_bit(coder, expected[foretold][k], value >> k & 1);
      same = bit == (foretold >> k & 1);
      node = node << 1 | bit;
    }
    Bit* fine = &literals[static_cast<size_t>(before) * 256];
    for (; k >= 0; --k)
      node = node << 1 | code_bit(coder, single[node], fine[node], value >> k & 1);
    return node & 255;
  }
};

template <typename Bit, typename Each>
void each(Model<Bit>& model, const Each& each_of) {
  const auto all = [&](auto& array, auto self) -> void {
    if constexpr (std::is_same_v<std::remove_reference_t<decltype(array)>, Bit>) {
      each_of(array);
    } else {
      for (auto& element : array) self(element, self);
    }
  };
  all(model.is_copy, all);
  all(model.is_far, all);
  all(model.which, all);
  all(model.width_of_length, all);
  all(model.low_of_length, all);
  all(model.width_of_distance, all);
  all(model.low_of_distance, all);
  all(model.expected, all);
}

// Where the last kContext bytes came before.
class Foreteller {
 public:
  Foreteller(size_t n) {
    while (bits_ < 18 && (size_t{1} << bits_) < 2 * n) ++bits_;
    places_.assign(size_t{1} << bits_, 0);
  }

  // The place after the last one at which these bytes came, 0 if none; notes this one.
  uint32_t next(uint32_t bytes, uint32_t place) noexcept {
    uint32_t& slot = places_[bytes * 0x9E3779B1u >> (32 - bits_)];
    const uint32_t found = slot;
    slot = place;
    return found;
  }

 private:
  int bits_ = 8;
  std::vector<uint32_t> places_;
};

}  // namespace qtool::codecs::lz
