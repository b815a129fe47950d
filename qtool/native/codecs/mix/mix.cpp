#include "codecs/mix/mix.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "codecs/binary_coder.h"
#include "codecs/mix/logistic.h"

namespace qtool::codecs {
namespace {

// A probability in units of 2**-22 above, the number of bits seen below, up to a limit: the more
// it has seen, the less it moves.
constexpr int kCountBits = 10;
constexpr uint32_t kUnknown = 1u << 31;

struct Rates {
  uint32_t of[1 << kCountBits];
  Rates() {
    for (uint32_t n = 0; n < 1u << kCountBits; ++n) of[n] = (1u << 17) / (2 * n + 3);
  }
};

const Rates kRates;

inline void see(uint32_t& slot, int bit, uint32_t limit) noexcept {
  const uint32_t n = slot & ((1u << kCountBits) - 1);
  const auto p = static_cast<int64_t>(slot >> kCountBits);
  const int64_t target = -bit & ((1 << 22) - 1);
  const int64_t moved = p + ((target - p) * static_cast<int64_t>(kRates.of[n]) >> 16);
  slot = static_cast<uint32_t>(moved) << kCountBits | (n + (n < limit));
}

// Equal tables side by side: cache lines of 16 slots, in pages as large as there are.
template <int n>
class Tables {
 public:
  explicit Tables(int bits) : size_(size_t{1} << bits) {
    const size_t n_bytes = n * size_ * sizeof(uint32_t);
    const size_t align = n_bytes < kLargePage ? kLine : kLargePage;
    const size_t rounded = (n_bytes + align - 1) / align * align;
    slots_.reset(static_cast<uint32_t*>(std::aligned_alloc(align, rounded)));
    if (!slots_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (align == kLargePage) madvise(slots_.get(), rounded, MADV_HUGEPAGE);
#endif
    std::fill_n(slots_.get(), n * size_, kUnknown);
  }

  uint32_t* of(int k) const noexcept { return slots_.get() + static_cast<size_t>(k) * size_; }
  size_t size() const noexcept { return size_; }

 private:
  static constexpr size_t kLine = 64, kLargePage = size_t{1} << 21;

  struct Free {
    void operator()(uint32_t* slots) const noexcept { std::free(slots); }
  };

  size_t size_;
  std::unique_ptr<uint32_t[], Free> slots_;
};

int bits_for(uint64_t n, int least, int most) noexcept {
  while (least < most && (uint64_t{1} << least) < n) ++least;
  return least;
}

// The weights of n inputs in each of several sets, and the bit that they predict.
template <int n>
class Mixer {
 public:
  // Weights begin at first; slow is the rate at which they learn in the end.
  Mixer(size_t sets, int32_t first, int32_t slow) : weights_(sets * n, first), slow_(slow) {}

  uint32_t probability(const int (&inputs)[n], size_t set) noexcept {
    weights_at_ = weights_.data() + set * n;
    int64_t sum = 0;
    for (int i = 0; i < n; ++i) sum += int64_t{weights_at_[i]} * inputs[i];
    sum >>= 16;
    const int limit = kStretchLimit;
    const auto x = static_cast<int>(std::clamp<int64_t>(sum, -limit, limit));
    p_ = logistic_.squash[limit + x];
    return std::clamp<uint32_t>(p_, 16, 65520);
  }

  void see(const int (&inputs)[n], int bit) noexcept {
    const int32_t error = (bit * 65536 - static_cast<int32_t>(p_)) * rate_ >> 4;
    if ((++seen_ & (kHalf - 1)) == 0) rate_ = slow_ + kFast / (1 + seen_ / kHalf);
    for (int i = 0; i < n; ++i) {
      const int32_t moved = weights_at_[i] + ((inputs[i] * error + (1 << 15)) >> 16);
      weights_at_[i] = std::clamp(moved, -kMost, kMost);
    }
  }

 private:
  static constexpr int32_t kFast = 14, kHalf = 4096;  // more rate at first, and when it is halved
  static constexpr int32_t kMost = 1 << 18;

  std::vector<int32_t> weights_;
  const Logistic& logistic_ = logistic();
  int32_t* weights_at_ = nullptr;
  uint32_t p_ = 0;
  int32_t slow_, seen_ = 0, rate_ = slow_ + kFast;
};

// A class of 0 to 15 of the distance from zero: its sign, and how many bits it has.
int distance_class(uint8_t symbol, uint8_t zero) noexcept {
  const auto d = static_cast<int8_t>(symbol - zero);
  const int magnitude = d < 0 ? -d : d;
  const int width = magnitude == 0 ? 0 : 32 - __builtin_clz(static_cast<unsigned>(magnitude));
  return std::min(width, 7) + (d < 0 ? 8 : 0);
}

// Contexts of kValues.
class Values {
 public:
  static constexpr int kInputs = 4;
  static constexpr uint32_t kLimit = 1000;

  Values(const uint8_t* symbols, size_t n, const MixLayout& layout)
      : symbols_(symbols),
        layout_(layout),
        bits_(bits_for(16 * n, 9, kMostBits)),
        tables_(bits_),
        mixer_(8, (1 << 16) * 1 / 4, 8) {}

  void begin(size_t i) noexcept {
    const int left = at(i, 1), left2 = at(i, 2);
    const int up = at(i, layout_.step), up2 = at(i, 2 * layout_.step);
    contexts_[0] = 0;
    contexts_[1] = static_cast<size_t>(left * 16 + left2);
    contexts_[2] = static_cast<size_t>(up * 16 + up2);
    contexts_[3] = static_cast<size_t>(i / layout_.row % kClasses);
  }

  uint32_t probability(int node, int bit) noexcept {
    for (int k = 0; k < kInputs; ++k) {
      // Odd, so that no two meet where there is a place for each.
      const auto index =
          static_cast<uint16_t>((contexts_[k] * 256 + static_cast<size_t>(node)) * 0x9E35u);
      slots_[k] = tables_.of(k) + (index >> (kMostBits - bits_));
      inputs_[k] = logistic_.stretch[*slots_[k] >> 20];
    }
    return mixer_.probability(inputs_, static_cast<size_t>(bit));
  }

  void see(int bit) noexcept {
    mixer_.see(inputs_, bit);
    for (uint32_t* slot : slots_) codecs::see(*slot, bit, kLimit);
  }

  void end(uint8_t) noexcept {}

 private:
  static constexpr size_t kClasses = 256;
  static constexpr int kMostBits = 16;

  int at(size_t i, uint64_t back) const noexcept {
    return back <= i ? distance_class(symbols_[i - back], layout_.zero) : 0;
  }

  const uint8_t* symbols_;
  const Logistic& logistic_ = logistic();
  MixLayout layout_;
  int bits_;
  Tables<kInputs> tables_;
  size_t contexts_[kInputs] = {};
  uint32_t* slots_[kInputs] = {};
  int inputs_[kInputs] = {};
  Mixer<kInputs> mixer_;
};

// Contexts of kText: the bytes before, those four and eight back as in arrays of numbers, and what
// followed the last time that the same bytes came.
class Text {
 public:
  static constexpr int kOrders = 5;
  static constexpr int kInputs = kOrders + 1;
  static constexpr uint32_t kLimit = 30;

  Text(const uint8_t* symbols, size_t n, const MixLayout&)
      : symbols_(symbols),
        tables_(bits_for(8 * n, 12, 22)),
        lasts_(tables_.size() / 16, 0),
        mixer_(4, (1 << 16) * 3 / 16, 12) {
    for (auto& table : refinements_) {
      for (uint32_t i = 0; i < kCounts * kLevels; ++i) {
        const uint32_t p = (2 * (i % kLevels) + 1) << (31 - kLevelBits);
        table[i] = (p & ~((1u << kCountBits) - 1)) | 6;
      }
    }
  }

  void begin(size_t i) noexcept {
    uint64_t before = 0;  // the last 8 bytes, the last one lowest
    for (size_t k = 1; k <= 8 && k <= i; ++k) before |= uint64_t{symbols_[i - k]} << (8 * (k - 1));
    for (int k = 0; k < 3; ++k) {  // the last one, two, three bytes
      hashes_[k] = hash((before << (56 - 8 * k)) + static_cast<uint64_t>(k));
    }
    if (i > 0) see_word(symbols_[i - 1]);
    hashes_[3] = hash((before & 0xFF000000FF000000u) + 3);  // 4 and 8 back
    hashes_[4] = hash(word_ * 0x9E3779B97F4A7C15u + last_word_ + 4);
    find_match(i, before);
  }

  uint32_t probability(int node, int bit) noexcept {
    // The 15 nodes of half a byte lie side by side.
    const int half = bit & 3;
    const size_t place = static_cast<size_t>(1 << half | (node & ((1 << half) - 1)));
    for (int k = 0; k < kOrders; ++k) {
      if (half == 0) {
        const uint64_t index = hash(hashes_[k] + static_cast<uint64_t>(bit == 0 ? 0 : node));
        buckets_[k] = tables_.of(k) + ((index >> 8 << 4) & (tables_.size() - 1));
      }
      slots_[k] = buckets_[k] + place;
      refined_[k] = &refinements_[static_cast<size_t>(k)][refinement(*slots_[k])];
      inputs_[k] = logistic_.stretch[*refined_[k] >> 20];
    }
    const int set = match_input(node, bit);
    return mixer_.probability(inputs_, static_cast<size_t>(set));
  }

  void see(int bit) noexcept {
    mixer_.see(inputs_, bit);
    for (uint32_t* slot : slots_) codecs::see(*slot, bit, kLimit);
    for (uint32_t* slot : refined_) codecs::see(*slot, bit, kLimit);
    if (expected_ >= 0)
      codecs::see(matches_[std::min<size_t>(length_, 31)], bit == expected_, 1000);
    if (expected_ >= 0 && bit != expected_) length_ = 0;
  }

  void end(uint8_t) noexcept {}

 private:
  static constexpr int kShortest = 5;
  static constexpr uint32_t kCounts = 24, kLevels = 64;
  static constexpr int kLevelBits = 6;

  static uint64_t hash(uint64_t x) noexcept {
    x *= 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
  }

  // What a slot has come to be worth: by how much it has seen, and what it says.
  static size_t refinement(uint32_t slot) noexcept {
    const uint32_t seen = std::min(slot & ((1u << kCountBits) - 1), kCounts - 1);
    return seen * kLevels + (slot >> (32 - kLevelBits));
  }

  // Words of letters: a hash of the one that the last bytes are in, 0 in none, and the one before.
  void see_word(uint8_t symbol) noexcept {
    const auto lower = static_cast<uint8_t>(symbol | 32);
    if (lower >= 'a' && lower <= 'z') {
      word_ = (word_ + symbol + 1) * 0x2545F4914F6CDD1Du;
    } else if (word_ != 0) {
      last_word_ = word_;
      word_ = 0;
    }
  }

  void find_match(size_t i, uint64_t before) noexcept {
    if (length_ > 0) ++length_, ++match_;
    if (i < kShortest) return;
    size_t& last = lasts_[hash(before << 24) >> 8 & (lasts_.size() - 1)];
    if (length_ == 0 && last > 0) {
      match_ = last;
      while (length_ < 32 && length_ < match_ &&
             symbols_[match_ - 1 - length_] == symbols_[i - 1 - length_]) {
        ++length_;
      }
      if (length_ < kShortest) length_ = 0;
    }
    last = i;
  }

  // Sets the last input; returns how sure the match is, 0 to 3.
  int match_input(int node, int bit) noexcept {
    expected_ = -1;
    inputs_[kOrders] = 0;
    if (length_ == 0) return 0;
    const int symbol = symbols_[match_] | 256;
    if (symbol >> (8 - bit) != node) return 0;
    expected_ = symbol >> (7 - bit) & 1;
    const int sure = logistic_.stretch[matches_[std::min<size_t>(length_, 31)] >> 20];
    inputs_[kOrders] = expected_ ? sure : -sure;
    return length_ < 8 ? 1 : length_ < 24 ? 2 : 3;
  }

  const uint8_t* symbols_;
  const Logistic& logistic_ = logistic();
  Tables<kOrders> tables_;
  std::vector<size_t> lasts_;
  uint64_t hashes_[kOrders] = {};
  uint32_t* buckets_[kOrders] = {};
  uint32_t* slots_[kOrders] = {};
  uint32_t* refined_[kOrders] = {};
  uint32_t refinements_[kOrders][kCounts * kLevels];
  int inputs_[kInputs] = {};
  std::vector<uint32_t> matches_ = std::vector<uint32_t>(32, kUnknown);
  size_t length_ = 0, match_ = 0;
  uint64_t word_ = 0, last_word_ = 0;
  int expected_ = -1;
  Mixer<kInputs> mixer_;
};

int code(BinaryEncoder& coder, uint32_t p, int bit) {
  coder.code(bit, p);
  return bit;
}

int code(BinaryDecoder& coder, uint32_t p, int) noexcept { return coder.code(p); }

bool lost(const BinaryEncoder&) noexcept { return false; }
bool lost(const BinaryDecoder& coder) noexcept { return coder.overrun(); }

// symbols are read when encoding and written when decoding; contexts look at those before.
template <typename Contexts, typename Coder, typename Symbol>
bool run(Coder& coder, Symbol* symbols, size_t n, const MixLayout& layout) {
  Contexts contexts(symbols, n, layout);
  for (size_t i = 0; i < n; ++i) {
    contexts.begin(i);
    int node = 1;
    const int symbol = std::is_const_v<Symbol> ? symbols[i] : 0;
    for (int k = 0; k < 8; ++k) {
      const uint32_t p = contexts.probability(node, k);
      const int bit = code(coder, p, symbol >> (7 - k) & 1);
      contexts.see(bit);
      node = node << 1 | bit;
    }
    if constexpr (!std::is_const_v<Symbol>) symbols[i] = static_cast<uint8_t>(node);
    if (lost(coder)) return false;
  }
  return true;
}

}  // namespace

void mix_encode(const uint8_t* symbols, size_t n, MixModel model, const MixLayout& layout,
                Bytes& out) {
  out.push_back(static_cast<uint8_t>(model));
  if (model == MixModel::kValues) {
    out.push_back(layout.zero);
    put_number(out, layout.step);
    put_number(out, layout.row);
  }
  BinaryEncoder coder(out);
  if (model == MixModel::kValues) {
    run<Values>(coder, symbols, n, layout);
  } else {
    run<Text>(coder, symbols, n, layout);
  }
  coder.finish();
}

bool mix_decode(Reader in, uint8_t* out, size_t n) {
  const uint8_t model = in.byte();
  MixLayout layout;
  if (model == static_cast<uint8_t>(MixModel::kValues)) {
    layout.zero = in.byte();
    layout.step = in.number();
    layout.row = in.number();
  }
  const auto legal = [](uint64_t back) { return back > 0 && back < uint64_t{1} << 48; };
  if (!in.ok || model > 1 || !legal(layout.step) || !legal(layout.row)) return false;
  BinaryDecoder coder(in);
  const bool done = model == static_cast<uint8_t>(MixModel::kValues)
                        ? run<Values>(coder, out, n, layout)
                        : run<Text>(coder, out, n, layout);
  return done && coder.exact();
}

}  // namespace qtool::codecs
