#include <algorithm>
#include <vector>

#include "codecs/binary_coder.h"
#include "codecs/huffman/lengths.h"

namespace qtool::codecs {
namespace {

// A symbol, or a package of two of the level below.
struct Coin {
  uint64_t weight;
  int symbol;  // -1: a package
  int first;   // of its two in the level below
};

constexpr int kContexts = kMaxCodeBits + 2;

// Codes lengths[0 .. 255], each as a path in the tree of 4-bit numbers, in the context of the one
// before; then says how many symbols from there on are not used.
template <typename Coder>
void code_all(Coder& coder, uint8_t (&lengths)[256]) {
  AdaptiveBit contexts[kContexts][16];
  int before = kMaxCodeBits + 1;
  for (uint8_t& length : lengths) {
    int node = 1;
    for (int i = 3; i >= 0; --i) {
      node = node << 1 | code_bit(coder, contexts[before][node], length >> i & 1);
    }
    length = static_cast<uint8_t>(node - 16);
    before = std::min<int>(length, kMaxCodeBits + 1);
  }
}

}  // namespace

void code_lengths(const uint64_t (&counts)[256], uint8_t (&lengths)[256]) {
  std::fill(std::begin(lengths), std::end(lengths), uint8_t{0});
  std::vector<Coin> symbols;
  for (int s = 0; s < 256; ++s) {
    if (counts[s] != 0) symbols.push_back({counts[s], s, 0});
  }
  if (symbols.size() == 1) lengths[symbols[0].symbol] = 1;
  if (symbols.size() < 2) return;
  const auto lighter = [](const Coin& a, const Coin& b) { return a.weight < b.weight; };
  std::stable_sort(symbols.begin(), symbols.end(), lighter);
  std::vector<Coin> levels[kMaxCodeBits];
  levels[0] = symbols;
  for (int level = 1; level < kMaxCodeBits; ++level) {
    const std::vector<Coin>& below = levels[level - 1];
    std::vector<Coin> packages;
    for (size_t i = 0; i + 1 < below.size(); i += 2) {
      packages.push_back({below[i].weight + below[i + 1].weight, -1, static_cast<int>(i)});
    }
    levels[level].resize(symbols.size() + packages.size());
    std::merge(symbols.begin(), symbols.end(), packages.begin(), packages.end(),
               levels[level].begin(), lighter);
  }
  // The 2 n - 2 lightest of the last level; each package stands for two of the level below.
  size_t taken = 2 * symbols.size() - 2;
  for (int level = kMaxCodeBits - 1; level >= 0; --level) {
    size_t packages = 0;
    for (size_t i = 0; i < taken; ++i) {
      const Coin& coin = levels[level][i];
      if (coin.symbol < 0) {
        ++packages;
      } else {
        ++lengths[coin.symbol];
      }
    }
    taken = 2 * packages;  // they are the lightest of the level below
  }
}

void write_lengths(const uint8_t (&lengths)[256], Bytes& out) {
  Bytes coded;
  BinaryEncoder coder(coded);
  uint8_t copy[256];
  std::copy(std::begin(lengths), std::end(lengths), std::begin(copy));
  code_all(coder, copy);
  coder.finish();
  put_number(out, coded.size());
  out.insert(out.end(), coded.begin(), coded.end());
}

bool read_lengths(Reader& in, uint8_t (&lengths)[256]) {
  const uint64_t size = in.number();
  if (!in.ok || size > in.left()) return false;
  Reader coded{in.at, in.at + size};
  in.at += size;
  BinaryDecoder coder(coded);
  code_all(coder, lengths);
  if (!coder.exact()) return false;
  uint32_t space = 0;
  int used = 0;
  for (uint8_t length : lengths) {
    if (length > kMaxCodeBits) return false;
    if (length == 0) continue;
    ++used;
    space += 1u << (kMaxCodeBits - length);
  }
  // Complete, or one code of one bit.
  return space == 1u << kMaxCodeBits || (used == 1 && space == 1u << (kMaxCodeBits - 1));
}

}  // namespace qtool::codecs
