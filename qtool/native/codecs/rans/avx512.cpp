#include <immintrin.h>

#include "codecs/rans/rans.h"

namespace qtool::codecs {
namespace {

struct Tables {
  const RansSlots* slots;
  __m512i mask, low16, low8, lowest;
  __m128i bits;
};

// One step of 16 lanes; writes their symbols, and moves words on.
__m512i step(const Tables& t, __m512i x, const uint8_t*& words, uint8_t* out) noexcept {
  const __m512i slot = _mm512_and_si512(x, t.mask);
  const __m512i found = _mm512_i32gather_epi32(slot, t.slots->symbols, 1);
  const __m512i symbol = _mm512_and_si512(found, t.low8);
  const __m512i numbers = _mm512_i32gather_epi32(symbol, t.slots->numbers, 4);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(symbol));
  const __m512i frequency = _mm512_srli_epi32(numbers, 16);
  const __m512i start = _mm512_and_si512(numbers, t.low16);
  const __m512i high = _mm512_srl_epi32(x, t.bits);
  x = _mm512_add_epi32(_mm512_mullo_epi32(frequency, high), _mm512_sub_epi32(slot, start));
  const __mmask16 low = _mm512_cmplt_epu32_mask(x, t.lowest);
  const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  const __m512i spread = _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(next));
  words += 2 * static_cast<unsigned>(__builtin_popcount(low));
  return _mm512_or_si512(_mm512_mask_slli_epi32(x, low, x, 16), spread);
}

}  // namespace

size_t rans_decode__avx512(RansArgs& args) noexcept {
  const RansSlots& slots = *args.slots;
  const Tables t = {&slots,
                    _mm512_set1_epi32(static_cast<int>(slots.mask)),
                    _mm512_set1_epi32(0xFFFF),
                    _mm512_set1_epi32(0xFF),
                    _mm512_set1_epi32(static_cast<int>(kLowest)),
                    _mm_cvtsi32_si128(slots.bits)};
  __m512i a = _mm512_loadu_si512(args.states), b = _mm512_loadu_si512(args.states + 16);
  const uint8_t* words = args.words;
  uint8_t* out = args.out;
  size_t group = 0;
  for (; group < args.n_groups && args.end - words >= 2 * kManyLanes; ++group) {
    a = step(t, a, words, out);
    b = step(t, b, words, out + 16);
    out += kManyLanes;
  }
  _mm512_storeu_si512(args.states, a);
  _mm512_storeu_si512(args.states + 16, b);
  args.words = words;
  return group;
}

}  // namespace qtool::codecs
