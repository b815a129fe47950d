#include "codecs/rans/rans.h"

#include <cstring>
#include <memory>

#include "codecs/rans/step.h"

namespace qtool::codecs {
namespace {

const RansVariant kVariants[] = {
#define QTOOL_RANS(isa, decode) {isa, decode},
#include "codecs/rans/kernels.inc"
#undef QTOOL_RANS
};

// Encodes one symbol without dividing: x / f is a multiplication and a shift, exact for x < 2**31
// (Granlund and Montgomery 1994), and x' = x + start + (x / f) * (2**bits - f).
struct Step {
  uint32_t limit;       // states from here on would pass 2**31
  uint32_t reciprocal;  // of f
  uint32_t bias;
  uint16_t rest;  // 2**bits - f
  uint16_t shift;
};

Step step_of(const RansTable& table, int symbol) noexcept {
  const uint32_t f = table.frequency[symbol], start = table.start[symbol];
  const uint32_t total = 1u << table.bits;
  Step step{};
  step.limit = f << (31 - table.bits);
  step.rest = static_cast<uint16_t>(total - f);
  if (f < 2) {  // the product gives x - 1
    step.reciprocal = ~0u;
    step.bias = start + total - 1;
    return step;
  }
  uint32_t shift = 0;
  while (f > 1u << shift) ++shift;
  step.reciprocal = static_cast<uint32_t>(((uint64_t{1} << (shift + 31)) + f - 1) / f);
  step.shift = static_cast<uint16_t>(shift - 1);
  step.bias = start;
  return step;
}

void fill_slots(const RansTable& table, RansSlots& slots) noexcept {
  slots.bits = table.bits;
  slots.mask = (1u << table.bits) - 1;
  for (int s = 0; s < 256; ++s) {
    slots.numbers[s] = table.frequency[s] << 16 | table.start[s];
    std::memset(slots.symbols + table.start[s], s, table.frequency[s]);
  }
  std::memset(slots.symbols + (size_t{1} << table.bits), 0, 8);
}

// Decodes symbols [from, n), with every read checked.
bool decode_rest(const RansSlots& slots, uint32_t* states, int lanes, Reader& in, uint8_t* out,
                 size_t from, size_t n) noexcept {
  const auto last = static_cast<size_t>(lanes - 1);  // lanes is a power of two
  for (size_t i = from; i < n; ++i) {
    uint32_t& x = states[i & last];
    out[i] = rans_step(slots, x);
    if (x >= kLowest) continue;
    if (in.left() < 2) return false;
    x = x << 16 | static_cast<uint32_t>(in.at[0] | in.at[1] << 8);
    in.at += 2;
  }
  return true;
}

}  // namespace

void rans_encode(const uint8_t* symbols, size_t n, const RansTable& table, Bytes& out) {
  const int lanes = lanes_for(n);
  Step steps[256];
  for (int s = 0; s < 256; ++s) steps[s] = step_of(table, s);
  std::unique_ptr<uint16_t[]> words(new uint16_t[n + 1]);
  uint16_t* word = words.get() + n + 1;  // written backwards
  uint32_t states[kManyLanes];
  for (uint32_t& state : states) state = kLowest;
  const auto step = static_cast<size_t>(lanes);
  const auto encode = [&](size_t i, uint32_t& x) {
    const Step& s = steps[symbols[i]];
    const bool full = x >= s.limit;  // by chance: no branch
    word[-1] = static_cast<uint16_t>(x);
    word -= full;
    x = full ? x >> 16 : x;
    const auto quotient = static_cast<uint32_t>(uint64_t{x} * s.reciprocal >> 32) >> s.shift;
    x += s.bias + quotient * s.rest;
  };
  size_t end = n;
  for (; end % step != 0; --end) encode(end - 1, states[(end - 1) % step]);
  for (; end > 0; end -= step) {
    for (size_t lane = step; lane-- > 0;) encode(end - step + lane, states[lane]);
  }
  out.push_back(static_cast<uint8_t>(lanes));
  for (int lane = 0; lane < lanes; ++lane) {
    for (int i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(states[lane] >> (8 * i)));
  }
  const auto n_words = static_cast<size_t>(words.get() + n + 1 - word);
  const size_t at = out.size();
  out.resize(at + 2 * n_words);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  if (n_words > 0) std::memcpy(out.data() + at, word, 2 * n_words);
#else
  for (size_t i = 0; i < n_words; ++i) {
    out[at + 2 * i] = static_cast<uint8_t>(word[i]);
    out[at + 2 * i + 1] = static_cast<uint8_t>(word[i] >> 8);
  }
#endif
}

bool rans_decode(Reader in, const RansTable& table, uint8_t* out, size_t n, const char* isa) {
  const RansVariant& variant = select(kVariants, isa);
  const int lanes = in.byte();
  if ((lanes != kLeastLanes && lanes != kFewLanes && lanes != kManyLanes) ||
      in.left() < 4 * static_cast<size_t>(lanes)) {
    return false;
  }
  uint32_t states[kManyLanes];
  for (int lane = 0; lane < lanes; ++lane, in.at += 4) {
    states[lane] = in.at[0] | in.at[1] << 8 | in.at[2] << 16 | uint32_t{in.at[3]} << 24;
    if (states[lane] < kLowest || states[lane] >> 31) return false;
  }
  RansSlots slots;
  fill_slots(table, slots);
  size_t done = 0;
  if (lanes == kManyLanes) {
    RansArgs args = {&slots, states, in.at, in.end, out, n / kManyLanes};
    done = kManyLanes * variant.decode(args);
    in.at = args.words;
  }
  if (!decode_rest(slots, states, lanes, in, out, done, n) || in.at != in.end) return false;
  for (int lane = 0; lane < lanes; ++lane) {
    if (states[lane] != kLowest) return false;
  }
  return true;
}

}  // namespace qtool::codecs
