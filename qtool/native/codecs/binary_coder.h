// Binary arithmetic coding with 16-bit probabilities: range [low, high] of 32 bits, split at
//
//   middle = low + (high - low) * p / 2**16      p in [1, 2**16 - 1], the chance of a 1
//
// A 1 keeps [low, middle], a 0 keeps [middle + 1, high]; equal leading bytes are shifted out.
#pragma once

#include "codecs/bytes.h"

namespace qtool::codecs {

constexpr int kProbabilityBits = 16;

inline uint32_t split(uint32_t low, uint32_t high, uint32_t p) noexcept {
  return low + static_cast<uint32_t>((uint64_t{high - low} * p) >> kProbabilityBits);
}

// The least number of bytes that, with zeros after them, give a value from low to high.
inline int fewest_bytes(uint32_t low, uint32_t high, uint32_t& value) noexcept {
  value = 0;
  if (low == 0) return 0;
  for (int kept = 1; kept < 4; ++kept) {
    const uint64_t rest = 0xFFFFFFFFu >> (8 * kept);
    const uint64_t rounded = (low + rest) & ~rest;
    if (rounded > high) continue;
    value = static_cast<uint32_t>(rounded);
    return kept;
  }
  value = low;
  return 4;
}

class BinaryEncoder {
 public:
  explicit BinaryEncoder(Bytes& out) : out_(out) {}

  void code(int bit, uint32_t p) {
    const uint32_t middle = split(low_, high_, p);
    (bit ? high_ : low_) = bit ? middle : middle + 1;
    while (((low_ ^ high_) & 0xFF000000u) == 0) {
      out_.push_back(static_cast<uint8_t>(high_ >> 24));
      low_ <<= 8;
      high_ = high_ << 8 | 255;
    }
  }

  // Writes the fewest bytes that, with zeros after them, lie in the range.
  void finish() {
    uint32_t value;
    const int kept = fewest_bytes(low_, high_, value);
    for (int i = 0; i < kept; ++i) out_.push_back(static_cast<uint8_t>(value >> (24 - 8 * i)));
  }

 private:
  Bytes& out_;
  uint32_t low_ = 0, high_ = 0xFFFFFFFFu;
};

class BinaryDecoder {
 public:
  // Bytes after the end read as 0: the encoder leaves out what they would say.
  explicit BinaryDecoder(Reader& in) : in_(in), size_(in.left()) {
    for (int i = 0; i < 4; ++i) shift_in();
    shifted_ = 0;
  }

  int code(uint32_t p) noexcept {
    const uint32_t middle = split(low_, high_, p);
    const int bit = value_ <= middle;
    (bit ? high_ : low_) = bit ? middle : middle + 1;
    while (((low_ ^ high_) & 0xFF000000u) == 0) {
      low_ <<= 8;
      high_ = high_ << 8 | 255;
      shift_in();
    }
    return bit;
  }

  // Whether more is missing than the 4 bytes that an encoder may leave out.
  bool overrun() const noexcept { return shifted_ > size_; }

  // Whether the bytes were as many as the encoder of what was decoded writes.
  bool exact() const noexcept {
    uint32_t value;
    return size_ == shifted_ + static_cast<size_t>(fewest_bytes(low_, high_, value));
  }

 private:
  void shift_in() noexcept {
    const bool there = in_.at != in_.end;
    ++shifted_;
    value_ = value_ << 8 | (there ? *in_.at++ : 0u);
  }

  Reader& in_;
  size_t size_, shifted_ = 0;
  uint32_t low_ = 0, high_ = 0xFFFFFFFFu, value_ = 0;
};

// A probability that moves towards what it sees: fast at first, then by 1 / 2**kSlow.
struct AdaptiveBit {
  static constexpr int kSlow = 5;
  uint16_t p = 1u << 15;
  uint8_t seen = 0;

  uint32_t probability() const noexcept { return p < 32 ? 32u : p > 65504 ? 65504u : p; }

  void see(int bit) noexcept {
    const int rate = seen < kSlow - 1 ? seen + 1 : kSlow;
    const int32_t target = bit ? 65535 : 0;
    p = static_cast<uint16_t>(p + (target - p) / (1 << rate));
    seen = static_cast<uint8_t>(seen < kSlow ? seen + 1 : seen);
  }
};

// One coder for both directions: Coder is BinaryEncoder or BinaryDecoder.
template <class Context>  // AdaptiveBit, or another estimate of how likely a 1 is
int code_bit(BinaryEncoder& coder, Context& context, int bit) {
  coder.code(bit, context.probability());
  context.see(bit);
  return bit;
}

template <class Context>
int code_bit(BinaryDecoder& coder, Context& context, int) {
  const int bit = coder.code(context.probability());
  context.see(bit);
  return bit;
}

}  // namespace qtool::codecs
