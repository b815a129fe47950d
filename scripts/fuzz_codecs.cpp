// Damages the streams of the native codecs and decodes them; the sanitizers say what is wrong.
//
//   fuzz_codecs CASES [SEED [FIRST]]
//
// Each case encodes random symbols with one codec, checks that they come back with every kernel,
// damages the stream, or asks it for another number of symbols, and decodes again. What is decoded
// from damaged bytes must be refused or fill the output; all kernels must agree about it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "codecs/huffman/huffman.h"
#include "codecs/huffman/lengths.h"
#include "codecs/layout/layout.h"
#include "codecs/lz/lz.h"
#include "codecs/mix/mix.h"
#include "codecs/rans/rans.h"
#include "isa.h"

using namespace qtool::codecs;

namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t n) { return static_cast<size_t>(random() % n); }

void require(bool right, const char* what, uint64_t number) {
  if (right) return;
  std::printf("case %llu: %s\n", static_cast<unsigned long long>(number), what);
  std::exit(1);
}

// Symbols of few or many kinds, even or not, alone or in runs.
Bytes some_symbols(Random& random) {
  const size_t n = below(random, 20) == 0 ? 70000 + below(random, 5000) : 1 + below(random, 400);
  const size_t kinds = 1 + below(random, below(random, 2) == 0 ? 4 : 256);
  const size_t skew = 1 + below(random, 4), first = below(random, 256);
  Bytes symbols(n);
  for (size_t i = 0; i < n; ++i) {
    size_t kind = below(random, kinds);
    for (size_t k = 1; k < skew; ++k) kind = std::min(kind, below(random, kinds));
    symbols[i] = static_cast<uint8_t>(first + kind);
  }
  return symbols;
}

void damage(Random& random, Bytes& data) {
  for (size_t times = below(random, 3) + 1; times > 0 && !data.empty(); --times) {
    const size_t at = below(random, 4) == 0 ? below(random, data.size())
                                            : below(random, std::min<size_t>(data.size(), 40));
    switch (below(random, 6)) {
      case 0:
        data.resize(at);
        break;
      case 1:
        data.insert(data.begin() + static_cast<std::ptrdiff_t>(at), 1 + below(random, 8),
                    static_cast<uint8_t>(random()));
        break;
      case 2:
        data.erase(data.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      case 3:
        data[at] = below(random, 2) == 0 ? 0 : 255;
        break;
      default:
        data[at] = static_cast<uint8_t>(data[at] ^ 1u << below(random, 8));
    }
  }
}

// A copy of its own size, so that reading past its end is noticed.
struct Exact {
  explicit Exact(const Bytes& data) : size(data.size()), bytes(new uint8_t[data.size()]) {
    std::copy(data.begin(), data.end(), bytes);
  }
  ~Exact() { delete[] bytes; }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  Reader reader() const { return {bytes, bytes + size}; }
  size_t size;
  uint8_t* bytes;
};

const char* const kIsas[] = {"scalar", "avx2", "avx512"};

bool supported(const char* name) { return qtool::supports(qtool::isa_named(name)); }

void rans_case(Random& random, const Bytes& symbols, uint64_t number) {
  uint64_t counts[256];
  count_bytes(symbols.data(), symbols.size(), counts);
  const RansTable table = best_table(counts);
  Bytes coded, data;
  write_table(table, coded);
  rans_encode(symbols.data(), symbols.size(), table, data);
  const bool table_damaged = below(random, 3) == 0;
  for (int round = 0; round < 2; ++round) {
    const Exact table_bytes(coded), bytes(data);
    const size_t n = round == 0 ? symbols.size() : symbols.size() - below(random, 2);
    RansTable read;
    const bool known = read_table(table_bytes.reader(), read);
    require(known || round == 1, "a right table is refused", number);
    Bytes first;
    bool first_done = false;
    for (const char* isa : kIsas) {
      if (!known || !supported(isa)) continue;
      Bytes out(n);
      const bool done = rans_decode(bytes.reader(), read, out.data(), n, isa);
      if (round == 0) require(done && out == symbols, "a right rans stream is misread", number);
      if (isa == kIsas[0]) {
        first = out;
        first_done = done;
      }
      require(done == first_done && (!done || out == first), "kernels disagree", number);
    }
    damage(random, table_damaged ? coded : data);
  }
}

void huffman_case(Random& random, const Bytes& symbols, uint64_t number) {
  uint64_t counts[256];
  uint8_t lengths[256];
  count_bytes(symbols.data(), symbols.size(), counts);
  code_lengths(counts, lengths);
  Bytes data;
  huffman_encode(symbols.data(), symbols.size(), lengths, data);
  for (int round = 0; round < 2; ++round) {
    const Exact bytes(data);
    Bytes out(round == 0 ? symbols.size() : symbols.size() - below(random, 2));
    const bool done = huffman_decode(bytes.reader(), out.data(), out.size());
    if (round == 0) require(done && out == symbols, "a right huffman stream is misread", number);
    damage(random, data);
  }
}

void mix_case(Random& random, Bytes symbols, uint64_t number) {
  symbols.resize(std::min<size_t>(symbols.size(), 300));
  const MixModel model = below(random, 2) == 0 ? MixModel::kValues : MixModel::kText;
  const MixLayout layout = {static_cast<uint8_t>(random()), 1 + below(random, 20),
                            1 + below(random, 200)};
  Bytes data;
  mix_encode(symbols.data(), symbols.size(), model, layout, data);
  for (int round = 0; round < 2; ++round) {
    const Exact bytes(data);
    Bytes out(round == 0 ? symbols.size() : symbols.size() + below(random, 3));
    const bool done = mix_decode(bytes.reader(), out.data(), out.size());
    if (round == 0) require(done && out == symbols, "a right arith stream is misread", number);
    damage(random, data);
  }
}

// Symbols in which strings come again, from before or from a dictionary.
void lz_case(Random& random, Bytes symbols, uint64_t number) {
  Bytes dictionary(below(random, 3) == 0 ? 0 : below(random, 200));
  for (uint8_t& byte : dictionary) byte = static_cast<uint8_t>(below(random, 20));
  symbols.resize(std::min<size_t>(symbols.size(), 2000));
  for (size_t times = below(random, 6); times > 0; --times) {
    const Bytes& from = below(random, 2) == 0 && !dictionary.empty() ? dictionary : symbols;
    const size_t length = 1 + below(random, std::min(from.size(), symbols.size()));
    const Bytes part(
        from.begin() + static_cast<std::ptrdiff_t>(below(random, from.size() - length + 1)),
        from.end());
    const size_t at = below(random, symbols.size() - length + 1);
    std::copy_n(part.begin(), length, symbols.begin() + static_cast<std::ptrdiff_t>(at));
  }
  const bool known = below(random, 8) != 0;  // else it is another one when decoding
  Bytes data;
  lz_encode(symbols.data(), symbols.size(), {dictionary.data(), dictionary.size()}, data);
  if (!known) dictionary.resize(dictionary.size() / 2);
  const Exact words(dictionary);
  for (int round = 0; round < 4; ++round) {
    const Exact bytes(data);
    Bytes out(round == 0 ? symbols.size() : symbols.size() + below(random, 3));
    const bool done = lz_decode(bytes.reader(), {words.bytes, words.size}, out.data(), out.size());
    if (round == 0 && known)
      require(done && out == symbols, "a right lz stream is misread", number);
    damage(random, data);
  }
}

void layout_case(Random& random, const Bytes& symbols, uint64_t number) {
  const int width = 1 << below(random, 4);
  const size_t n = symbols.size() / static_cast<size_t>(width);
  Bytes values(symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(n * width));
  for (uint8_t& value : values) value = below(random, 2) == 0 ? value : 0;
  Bytes planes(values.size()), again(values.size());
  for (int t = 0; t < kTransforms; ++t) {
    split_planes(values.data(), n, width, static_cast<Transform>(t), planes.data());
    join_planes(planes.data(), n, width, static_cast<Transform>(t), again.data());
    require(again == values, "planes do not come back", number);
  }
  Bytes nonzero(count_nonzero(values.data(), n, width) * static_cast<size_t>(width));
  take_nonzero(values.data(), n, width, nonzero.data());
  const size_t kept = nonzero.size() / static_cast<size_t>(width);
  Bytes mask((n + 7) / 8), gaps;
  write_mask(values.data(), n, width, mask.data());
  const int most = std::vector<int>{15, 31, 255}[below(random, 3)];
  write_gaps(values.data(), n, width, most, gaps);
  require(from_mask(mask.data(), n, width, nonzero.data(), kept, again.data()) && again == values,
          "a mask does not come back", number);
  require(from_gaps(gaps.data(), gaps.size(), n, width, most, nonzero.data(), kept, again.data()) &&
              again == values,
          "gaps do not come back", number);
  if (!mask.empty()) mask[below(random, mask.size())] ^= 1u << below(random, 8);
  damage(random, gaps);
  const Exact bad_mask(mask), bad_gaps(gaps);
  from_mask(bad_mask.bytes, n, width, nonzero.data(), kept, again.data());
  from_gaps(bad_gaps.bytes, bad_gaps.size, n, width, most, nonzero.data(), kept, again.data());

  Bytes indices(n);
  const Bytes book = find_codebook(values.data(), n, width, below(random, 2) == 0, indices.data());
  if (book.empty()) return;
  const size_t k = book.size() / static_cast<size_t>(width);
  require(look_up(indices.data(), n, width, book.data(), k, again.data()) && again == values,
          "a codebook does not come back", number);
  for (size_t i = 0; i < n; ++i) indices[i] = static_cast<uint8_t>(random());
  look_up(indices.data(), n, width, book.data(), k, again.data());
}

void bits_case(Random& random, Bytes symbols, uint64_t number) {
  const int bits = 1 + static_cast<int>(below(random, 7));
  for (uint8_t& symbol : symbols) symbol = static_cast<uint8_t>(symbol & ((1u << bits) - 1));
  Bytes packed((symbols.size() * static_cast<size_t>(bits) + 7) / 8), out(symbols.size());
  pack_bits(symbols.data(), symbols.size(), bits, packed.data());
  require(unpack_bits(packed.data(), out.size(), bits, out.data()) && out == symbols,
          "bits do not come back", number);
}

void run(uint64_t seed, uint64_t number) {
  Random random(seed * 0x9E3779B97F4A7C15u + number);
  const Bytes symbols = some_symbols(random);
  switch (below(random, 6)) {
    case 0:
      return rans_case(random, symbols, number);
    case 1:
      return huffman_case(random, symbols, number);
    case 2:
      return mix_case(random, symbols, number);
    case 3:
      return layout_case(random, symbols, number);
    case 4:
      return lz_case(random, symbols, number);
    default:
      return bits_case(random, symbols, number);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const uint64_t cases = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 10000;
  const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
  const uint64_t first = count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 0;
  for (uint64_t number = first; number < first + cases; ++number) run(seed, number);
  std::printf("%llu cases, no findings\n", static_cast<unsigned long long>(cases));
  return 0;
}
