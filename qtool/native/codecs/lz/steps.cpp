#include "codecs/lz/steps.h"

#include "codecs/log2.h"

namespace qtool::codecs::lz {
namespace {

constexpr int kPasses = 3;
constexpr size_t kBlock = size_t{1} << 16;  // symbols that are looked at together
constexpr uint32_t kNice = 48;              // longer copies are not cut
constexpr int kMostTries = 64;              // places looked at for a far copy

constexpr int kPriceBits = 6;  // of a bit

// How often a bit was 0 and 1: a few of each before the first.
struct Count {
  uint32_t of[2] = {1, 1};
  uint16_t price[2] = {kEven, kEven};

  static constexpr uint16_t kEven = 1u << kPriceBits;

  void settle() noexcept {
    const uint32_t all = log2_q16(uint64_t{of[0]} + of[1]);
    for (int bit : {0, 1}) {
      price[bit] = static_cast<uint16_t>((all - log2_q16(of[bit])) >> (16 - kPriceBits));
    }
  }
};

struct Counter {};

inline int code_bit(Counter&, Count& count, int bit) {
  count.of[bit] += 2;
  return bit;
}

inline int code_even(Counter&, int bit) { return bit; }

struct Pricer {
  uint32_t total = 0;
};

inline int code_bit(Pricer& pricer, const Count& count, int bit) {
  pricer.total += count.price[bit];
  return bit;
}

inline int code_bit(Counter&, Count& coarse, Count& fine, int bit) {
  coarse.of[bit] += 2;
  fine.of[bit] += 2;
  return bit;
}

inline int code_bit(Pricer& pricer, const Count& coarse, const Count& fine, int bit) {
  // The fine counts, and two more that are shared out as the coarse ones say.
  const uint64_t all = uint64_t{coarse.of[0]} + coarse.of[1];
  const uint64_t whole = (uint64_t{fine.of[0]} + fine.of[1]) * 256;
  const uint64_t part = (fine.of[bit] - 1) * uint64_t{256} + 1 + 512 * coarse.of[bit] / all;
  pricer.total += (log2_q16(whole) - log2_q16(std::min(part, whole))) >> (16 - kPriceBits);
  return bit;
}

inline int code_even(Pricer& pricer, int bit) {
  pricer.total += 1u << kPriceBits;
  return bit;
}

// Where the same bytes came before: chains of places by a hash of so many bytes.
class Chains {
 public:
  Chains(const Bytes& all, uint32_t bytes)
      : all_(all), bytes_(bytes), heads_(size_t{1} << kBits, 0), before_(all.size(), 0) {}

  // The last place before `at` with its bytes, 0 if none; notes this one.
  void add(size_t at) noexcept {
    if (at + bytes_ > all_.size()) return;
    uint32_t key = 0;
    for (uint32_t k = 0; k < bytes_; ++k) key = key << 8 | all_[at + k];
    uint32_t& head = heads_[key * 0x9E3779B1u >> (32 - kBits)];
    before_[at] = head;
    head = static_cast<uint32_t>(at + 1);
  }

  uint32_t before(size_t at) const noexcept { return before_[at]; }  // plus 1; 0: none

 private:
  static constexpr int kBits = 16;
  const Bytes& all_;
  uint32_t bytes_;
  std::vector<uint32_t> heads_, before_;
};

class Search {
 public:
  Search(const Bytes& all, size_t first)
      : all_(all), first_(first), foretold_(all.size() + 1, 0), pairs_(all, 2), threes_(all, 3) {
    Foreteller foreteller(all.size());
    uint32_t last = 0;
    for (size_t at = 0; at < all.size(); ++at) {
      last = last << 8 | all[at];
      const auto next = static_cast<uint32_t>(at + 1);
      const uint32_t found = foreteller.next(last, next);
      foretold_[next] = found == 0 ? 0 : next - found;
      pairs_.add(at);
      threes_.add(at);
    }
  }

  std::vector<Step> run() {
    std::vector<Step> steps;
    for (int pass = 0; pass < kPasses; ++pass) {
      std::vector<Step> found;
      State state;
      for (size_t from = first_; from < all_.size();) {
        from = block(from, std::min(from + kBlock, all_.size()), state, found);
      }
      steps.swap(found);
      count(steps);
    }
    return steps;
  }

 private:
  struct Arrival {
    uint32_t cost = UINT32_MAX;
    Step step{};
    State state;
  };

  uint32_t same(size_t at, size_t distance, size_t end) const noexcept {
    size_t n = 0;
    while (at + n < end && all_[at + n] == all_[at + n - distance]) ++n;
    return static_cast<uint32_t>(n);
  }

  // Appends the cheapest steps from one place to another, and returns that.
  size_t block(size_t from, size_t end, State& state, std::vector<Step>& steps) {
    arrivals_.assign(end - from + 1, {});
    arrivals_[0].cost = 0;
    arrivals_[0].state = state;
    for (size_t at = from; at < end; ++at) look(from, at, end);
    const size_t old = steps.size();
    for (size_t at = end; at > from;) {
      steps.push_back(arrivals_[at - from].step);
      at -= steps.back().length;
    }
    std::reverse(steps.begin() + static_cast<std::ptrdiff_t>(old), steps.end());
    state = arrivals_[end - from].state;
    return end;
  }

  void look(size_t from, size_t at, size_t end) {
    const Arrival& here = arrivals_[at - from];
    const State state = here.state;
    const uint32_t cost = here.cost;
    literal(from, at, cost, state);
    uint32_t longest = 0;
    for (int k = 0; k < kNearBy; ++k) {
      const uint32_t distance =
          k == 0 ? foretold_[at] : state.distances[static_cast<size_t>(k - 1)];
      if (distance == 0 || distance > at) continue;
      const uint32_t length = same(at, distance, end);
      if (length == 0) continue;
      longest = std::max(longest, length);
      Pricer pricer;
      model_.kind(pricer, state, kNear);
      model_.near_one(pricer, state, k);
      copies(from, at, cost + pricer.total, state, {kNear, k, length, distance}, 1);
    }
    if (longest >= kNice) return;
    far(from, at, end, cost, state);
  }

  void literal(size_t from, size_t at, uint32_t cost, const State& state) {
    Pricer pricer;
    State next = state;
    const Step step = {kLiteral, 0, 1, 0};
    code_step(pricer, model_, next, all_.data(), at, step);
    arrive(at + 1 - from, cost + pricer.total, step, next);
  }

  void far(size_t from, size_t at, size_t end, uint32_t cost, const State& state) {
    Pricer pricer;
    model_.kind(pricer, state, kFar);
    uint32_t longest = 1;
    const auto consider = [&](uint32_t place) {
      const auto distance = static_cast<uint32_t>(at - (place - 1));
      const uint32_t length = same(at, distance, end);
      if (length <= longest) return;
      copies(from, at, cost + pricer.total, state, {kFar, 0, length, distance}, longest + 1);
      longest = length;
    };
    if (const uint32_t place = pairs_.before(at)) consider(place);
    int tries = kMostTries;
    for (uint32_t place = threes_.before(at); place > 0 && tries > 0 && longest < kNice; --tries) {
      consider(place);
      place = threes_.before(place - 1);
    }
  }

  // Copies of all lengths from `least` to that of the step.
  void copies(size_t from, size_t at, uint32_t cost, const State& state, Step step,
              uint32_t least) {
    const uint32_t longest = step.length;
    if (longest >= kNice) least = std::max(least, longest);
    State next = state;
    next.use(step.distance);
    next.take(step.kind);
    for (uint32_t length = least; length <= longest; ++length) {
      Pricer pricer;
      model_.length(pricer, step.kind, step.near, length);
      if (step.kind == kFar) model_.distance(pricer, length, step.distance);
      step.length = length;
      arrive(at + length - from, cost + pricer.total, step, next);
    }
  }

  void arrive(size_t index, uint32_t cost, const Step& step, const State& state) {
    Arrival& there = arrivals_[index];
    if (cost >= there.cost) return;
    there = {cost, step, state};
  }

  void count(const std::vector<Step>& steps) {
    model_ = {};
    Counter counter;
    State state;
    size_t at = first_;
    for (const Step& step : steps) {
      code_step(counter, model_, state, all_.data(), at, step);
      at += step.length;
    }
    each(model_, [](Count& count) { count.settle(); });
  }

  const Bytes& all_;
  size_t first_;
  std::vector<uint32_t> foretold_;
  Chains pairs_, threes_;
  Model<Count> model_;
  std::vector<Arrival> arrivals_;
};

}  // namespace

std::vector<Step> cheapest_steps(const Bytes& all, size_t first) {
  return Search(all, first).run();
}

}  // namespace qtool::codecs::lz
