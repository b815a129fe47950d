#include "codecs/lz/lz.h"

#include "codecs/lz/model.h"
#include "codecs/lz/steps.h"

namespace qtool::codecs {
namespace {

using namespace lz;

// Dictionary and symbols, one after the other.
struct Place {
  Text dictionary;
  const uint8_t* symbols;

  uint8_t operator[](size_t at) const noexcept {
    return at < dictionary.n ? dictionary.bytes[at] : symbols[at - dictionary.n];
  }
};

class Decoder {
 public:
  Decoder(Reader& in, Text dictionary, uint8_t* out, size_t n)
      : coder_(in), place_{dictionary, out}, out_(out), end_(dictionary.n + n), foreteller_(end_) {
    for (; at_ < dictionary.n; ++at_) foretell(dictionary.bytes[at_]);
  }

  bool run() {
    while (at_ < end_) {
      const int kind = model_.kind(coder_, state_, 0);
      if (coder_.overrun() || !(kind == kLiteral ? literal() : copy(kind))) return false;
      state_.take(kind);
    }
    return coder_.exact();
  }

 private:
  bool literal() {
    const int before = static_cast<int>(last_ & 255);
    const bool known = state_.last != kLiteral;
    const int foretold = known ? place_[at_ - state_.distances[0]] : -1;
    put(static_cast<uint8_t>(model_.literal(coder_, before, foretold, 0)));
    return true;
  }

  bool copy(int kind) {
    uint32_t distance = 0, length = 0;
    if (kind == kNear) {
      const int k = model_.near_one(coder_, state_, 0);
      distance = k == 0 ? foretold_ : state_.distances[static_cast<size_t>(k - 1)];
      length = model_.length(coder_, kNear, k, 1);
    } else {
      length = model_.length(coder_, kFar, 0, 2);
      distance = model_.distance(coder_, length, 1);
    }
    if (distance == 0 || distance > at_ || length > end_ - at_) return false;
    for (const size_t stop = at_ + length; at_ < stop;) put(place_[at_ - distance]);
    state_.use(distance);
    return true;
  }

  void put(uint8_t symbol) noexcept {
    out_[at_ - place_.dictionary.n] = symbol;
    foretell(symbol);
    ++at_;
  }

  // Takes in the symbol at at_.
  void foretell(uint8_t symbol) noexcept {
    last_ = last_ << 8 | symbol;
    const auto next = static_cast<uint32_t>(at_ + 1);
    const uint32_t found = foreteller_.next(last_, next);
    foretold_ = found == 0 ? 0 : next - found;
  }

  BinaryDecoder coder_;
  Place place_;
  uint8_t* out_;
  size_t at_ = 0, end_;
  uint32_t last_ = 0, foretold_ = 0;
  State state_;
  Model<Chance> model_;
  Foreteller foreteller_;
};

}  // namespace

void lz_encode(const uint8_t* symbols, size_t n, Text dictionary, Bytes& out) {
  Bytes all(dictionary.bytes, dictionary.bytes + dictionary.n);
  all.insert(all.end(), symbols, symbols + n);
  const std::vector<Step> steps = cheapest_steps(all, dictionary.n);
  BinaryEncoder coder(out);
  Model<Chance> model;
  State state;
  size_t at = dictionary.n;
  for (const Step& step : steps) {
    code_step(coder, model, state, all.data(), at, step);
    at += step.length;
  }
  coder.finish();
}

bool lz_decode(Reader in, Text dictionary, uint8_t* out, size_t n) {
  if (n == 0 || n > kMostLz) return false;
  return Decoder(in, dictionary, out, n).run();
}

}  // namespace qtool::codecs
