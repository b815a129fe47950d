// Sixteen tables of 16 entries: vpshufb gives 0 for the bytes that belong to another one.
#include <immintrin.h>

#include <cstring>

#include "lookup/lookup.h"

namespace qtool {
namespace {

static inline __m256i look_up_32(const __m256i* tables, __m256i x) {
  __m256i y = _mm256_setzero_si256();
  for (int i = 0; i < 16; ++i) {
    // 0 .. 15 where x is in this table; adding 0x70 sets the top bit everywhere else.
    const __m256i index = _mm256_xor_si256(x, _mm256_set1_epi8(char(i << 4)));
    const __m256i masked = _mm256_adds_epu8(index, _mm256_set1_epi8(0x70));
    y = _mm256_or_si256(y, _mm256_shuffle_epi8(tables[i], masked));
  }
  return y;
}

}  // namespace

void look_up_32__avx2(const LookUpArgs& args) noexcept {
  __m256i tables[16];
  for (int i = 0; i < 16; ++i) {
    tables[i] = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(args.table + i * 16)));
  }
  for (int64_t row = 0; row < args.n_rows; ++row) {
    uint8_t* y = args.y + row * args.pitch;
    int64_t i = 0;
    for (; i + 32 <= args.n; i += 32) {
      auto* p = reinterpret_cast<__m256i*>(y + i);
      _mm256_storeu_si256(p, look_up_32(tables, _mm256_loadu_si256(p)));
    }
    for (; i < args.n; ++i) y[i] = args.table[y[i]];
  }
}

}  // namespace qtool
