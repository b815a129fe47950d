#include "codecs/layout/layout.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace qtool::codecs {
namespace {

constexpr size_t kMostDistinct = 256;

template <typename T>
T load(const uint8_t* values, size_t i) noexcept {
  T x;
  std::memcpy(&x, values + i * sizeof(T), sizeof(T));
  return x;
}

template <typename T>
void store(uint8_t* values, size_t i, T x) noexcept {
  std::memcpy(values + i * sizeof(T), &x, sizeof(T));
}

// The place of each of at most 256 values, by hashing without deletion.
template <typename T>
class Distinct {
 public:
  // The value's slot; the count passes kMostDistinct when there are too many.
  size_t add(T x) noexcept {
    size_t slot = (static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u) >> 53;
    while (used_[slot] && values_[slot] != x) slot = (slot + 1) % kSlots;
    if (!used_[slot]) {
      used_[slot] = true;
      values_[slot] = x;
      ++count;
    }
    return slot;
  }

  std::vector<T> values() const {
    std::vector<T> found;
    for (size_t slot = 0; slot < kSlots; ++slot) {
      if (used_[slot]) found.push_back(values_[slot]);
    }
    return found;
  }

  size_t count = 0;
  uint8_t index[2048] = {};  // by slot

 private:
  static constexpr size_t kSlots = 2048;
  bool used_[kSlots] = {};
  T values_[kSlots] = {};
};

template <typename T>
T key(T x, bool floats) noexcept {  // orders as the values do
  constexpr int top = 8 * sizeof(T) - 1;
  if (floats && x >> top) return static_cast<T>(~x);
  return static_cast<T>(x ^ T{1} << top);
}

template <typename T>
Bytes find(const uint8_t* values, size_t n, bool floats, uint8_t* indices) {
  std::vector<Distinct<T>> one(1);
  Distinct<T>& distinct = one[0];
  for (size_t i = 0; i < n; ++i) {
    distinct.add(load<T>(values, i));
    if (distinct.count > kMostDistinct) return {};
  }
  std::vector<T> sorted = distinct.values();
  std::sort(sorted.begin(), sorted.end(),
            [&](T a, T b) { return key(a, floats) < key(b, floats); });
  Bytes codebook(sorted.size() * sizeof(T));
  for (size_t i = 0; i < sorted.size(); ++i) {
    store(codebook.data(), i, sorted[i]);
    distinct.index[distinct.add(sorted[i])] = static_cast<uint8_t>(i);
  }
  for (size_t i = 0; i < n; ++i) indices[i] = distinct.index[distinct.add(load<T>(values, i))];
  return codebook;
}

template <typename T>
bool expand(const uint8_t* indices, size_t n, const uint8_t* codebook, size_t k,
            uint8_t* values) noexcept {
  T all[kMostDistinct] = {};
  if (k > 0) std::memcpy(all, codebook, k * sizeof(T));
  uint8_t highest = 0;
  for (size_t i = 0; i < n; ++i) highest = std::max(highest, indices[i]);
  if (n > 0 && highest >= k) return false;
  for (size_t i = 0; i < n; ++i) store(values, i, all[indices[i]]);
  return true;
}

template <typename T, typename See>
void each_nonzero(const uint8_t* values, size_t n, const See& see) {
  for (size_t i = 0; i < n; ++i) {
    if (const T x = load<T>(values, i); x != 0) see(i, x);
  }
}

// Calls with(T()) for the unsigned type of this width.
template <typename With>
auto by_width(int width, const With& with) {
  switch (width) {
    case 2:
      return with(uint16_t{});
    case 4:
      return with(uint32_t{});
    case 8:
      return with(uint64_t{});
    default:
      return with(uint8_t{});
  }
}

}  // namespace

void count_bytes(const uint8_t* bytes, size_t n, uint64_t (&counts)[256]) noexcept {
  uint32_t parts[4][256];  // neighbours that are equal do not wait for each other
  std::fill(std::begin(counts), std::end(counts), uint64_t{0});
  for (size_t from = 0; from < n;) {
    const size_t end = from + std::min(n - from, size_t{1} << 30);
    std::memset(parts, 0, sizeof parts);
    for (; from + 4 <= end; from += 4) {
      for (size_t k = 0; k < 4; ++k) ++parts[k][bytes[from + k]];
    }
    for (; from < end; ++from) ++parts[0][bytes[from]];
    for (size_t s = 0; s < 256; ++s) {
      counts[s] += uint64_t{parts[0][s]} + parts[1][s] + parts[2][s] + parts[3][s];
    }
  }
}

Bytes find_codebook(const uint8_t* values, size_t n, int width, bool floats, uint8_t* indices) {
  return by_width(width, [&](auto t) { return find<decltype(t)>(values, n, floats, indices); });
}

bool look_up(const uint8_t* indices, size_t n, int width, const uint8_t* codebook, size_t k,
             uint8_t* values) noexcept {
  return by_width(width,
                  [&](auto t) { return expand<decltype(t)>(indices, n, codebook, k, values); });
}

size_t count_nonzero(const uint8_t* values, size_t n, int width) noexcept {
  return by_width(width, [&](auto t) {
    size_t found = 0;
    for (size_t i = 0; i < n; ++i) found += load<decltype(t)>(values, i) != 0;
    return found;
  });
}

void take_nonzero(const uint8_t* values, size_t n, int width, uint8_t* nonzero) noexcept {
  by_width(width, [&](auto t) {
    size_t found = 0;
    each_nonzero<decltype(t)>(values, n, [&](size_t, auto x) { store(nonzero, found++, x); });
    return 0;
  });
}

void write_mask(const uint8_t* values, size_t n, int width, uint8_t* mask) noexcept {
  std::fill_n(mask, (n + 7) / 8, uint8_t{0});
  by_width(width, [&](auto t) {
    each_nonzero<decltype(t)>(values, n, [&](size_t i, auto) {
      mask[i / 8] = static_cast<uint8_t>(mask[i / 8] | 1u << (i % 8));
    });
    return 0;
  });
}

bool from_mask(const uint8_t* mask, size_t n, int width, const uint8_t* nonzero, size_t n_nonzero,
               uint8_t* values) noexcept {
  return by_width(width, [&](auto t) {
    using T = decltype(t);
    size_t used = 0;
    std::fill_n(values, n * sizeof(T), uint8_t{0});
    for (size_t byte = 0; byte < (n + 7) / 8; ++byte) {
      for (unsigned bits = mask[byte]; bits != 0; bits &= bits - 1) {
        const size_t i = 8 * byte + static_cast<size_t>(__builtin_ctz(bits));
        if (i >= n || used == n_nonzero) return false;
        const T x = load<T>(nonzero, used++);
        if (x == 0) return false;
        store(values, i, x);
      }
    }
    return used == n_nonzero;
  });
}

void write_gaps(const uint8_t* values, size_t n, int width, int most, Bytes& gaps) {
  by_width(width, [&](auto t) {
    size_t next = 0;
    const auto limit = static_cast<size_t>(most);
    each_nonzero<decltype(t)>(values, n, [&](size_t i, auto) {
      for (; i - next >= limit; next += limit) gaps.push_back(static_cast<uint8_t>(most));
      gaps.push_back(static_cast<uint8_t>(i - next));
      next = i + 1;
    });
    return 0;
  });
}

bool from_gaps(const uint8_t* gaps, size_t n_gaps, size_t n, int width, int most,
               const uint8_t* nonzero, size_t n_nonzero, uint8_t* values) noexcept {
  return by_width(width, [&](auto t) {
    using T = decltype(t);
    size_t i = 0, used = 0;
    std::fill_n(values, n * sizeof(T), uint8_t{0});
    for (size_t k = 0; k < n_gaps; ++k) {
      if (gaps[k] > most || gaps[k] > n - i) return false;
      i += gaps[k];
      if (gaps[k] == most) continue;
      if (i == n || used == n_nonzero) return false;
      const T x = load<T>(nonzero, used++);
      if (x == 0) return false;
      store(values, i++, x);
    }
    return used == n_nonzero && (n_gaps == 0 || gaps[n_gaps - 1] != most);
  });
}

void pack_bits(const uint8_t* symbols, size_t n, int bits, uint8_t* packed) noexcept {
  uint32_t held = 0;
  int filled = 0;
  for (size_t i = 0; i < n; ++i) {
    held |= static_cast<uint32_t>(symbols[i]) << filled;
    filled += bits;
    for (; filled >= 8; filled -= 8, held >>= 8) *packed++ = static_cast<uint8_t>(held);
  }
  if (filled > 0) *packed = static_cast<uint8_t>(held);
}

bool unpack_bits(const uint8_t* packed, size_t n, int bits, uint8_t* symbols) noexcept {
  uint32_t held = 0;
  int filled = 0;
  const uint32_t mask = (1u << bits) - 1;
  for (size_t i = 0; i < n; ++i) {
    if (filled < bits) {
      held |= static_cast<uint32_t>(*packed++) << filled;
      filled += 8;
    }
    symbols[i] = static_cast<uint8_t>(held & mask);
    held >>= bits;
    filled -= bits;
  }
  return held == 0;
}

}  // namespace qtool::codecs
