#include <immintrin.h>

#include "codecs/rans/rans.h"

namespace qtool::codecs {
namespace {

// Of each set of lanes that need a word: which of the next 8 words each lane takes.
struct Spread {
  uint8_t lanes[256][8];
  Spread() noexcept {
    for (int set = 0; set < 256; ++set) {
      uint8_t next = 0;
      for (int lane = 0; lane < 8; ++lane) {
        lanes[set][lane] = next;
        if (set >> lane & 1) ++next;
      }
    }
  }
};

struct Tables {
  const RansSlots* slots;
  const Spread* spread;
  __m256i mask, low16, low8, lowest;
  __m128i bits;
};

// One step of 8 lanes; returns their symbols, and moves words on.
__m256i step(const Tables& t, __m256i& x, const uint8_t*& words) noexcept {
  const __m256i slot = _mm256_and_si256(x, t.mask);
  const __m256i found =
      _mm256_i32gather_epi32(reinterpret_cast<const int*>(t.slots->symbols), slot, 1);
  const __m256i symbol = _mm256_and_si256(found, t.low8);
  const __m256i numbers =
      _mm256_i32gather_epi32(reinterpret_cast<const int*>(t.slots->numbers), symbol, 4);
  const __m256i frequency = _mm256_srli_epi32(numbers, 16);
  const __m256i start = _mm256_and_si256(numbers, t.low16);
  const __m256i high = _mm256_srl_epi32(x, t.bits);
  const __m256i moved =
      _mm256_add_epi32(_mm256_mullo_epi32(frequency, high), _mm256_sub_epi32(slot, start));
  const __m256i low = _mm256_cmpgt_epi32(t.lowest, moved);  // states are below 2**31
  const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
  const __m128i next = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words));
  const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(t.spread->lanes[set]));
  const __m256i taken =
      _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(next), _mm256_cvtepu8_epi32(order));
  words += 2 * static_cast<unsigned>(__builtin_popcount(set));
  const __m256i refilled = _mm256_or_si256(_mm256_slli_epi32(moved, 16), taken);
  x = _mm256_blendv_epi8(moved, refilled, low);
  return symbol;
}

}  // namespace

size_t rans_decode__avx2(RansArgs& args) noexcept {
  static const Spread spread;
  const RansSlots& slots = *args.slots;
  const Tables t = {&slots,
                    &spread,
                    _mm256_set1_epi32(static_cast<int>(slots.mask)),
                    _mm256_set1_epi32(0xFFFF),
                    _mm256_set1_epi32(0xFF),
                    _mm256_set1_epi32(static_cast<int>(kLowest)),
                    _mm_cvtsi32_si128(slots.bits)};
  const __m256i by_lane = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  auto* const states = reinterpret_cast<__m256i*>(args.states);
  __m256i x[4];
  for (int i = 0; i < 4; ++i) x[i] = _mm256_loadu_si256(states + i);
  const uint8_t* words = args.words;
  uint8_t* out = args.out;
  size_t group = 0;
  for (; group < args.n_groups && args.end - words >= 2 * kManyLanes; ++group) {
    const __m256i a = step(t, x[0], words), b = step(t, x[1], words);
    const __m256i c = step(t, x[2], words), d = step(t, x[3], words);
    const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_permutevar8x32_epi32(bytes, by_lane));
    out += kManyLanes;
  }
  for (int i = 0; i < 4; ++i) _mm256_storeu_si256(states + i, x[i]);
  args.words = words;
  return group;
}

}  // namespace qtool::codecs
