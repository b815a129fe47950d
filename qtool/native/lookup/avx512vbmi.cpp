// The table in four registers: each vpermi2b looks up 64 bytes in 128 entries.
#include <immintrin.h>

#include "lookup/lookup.h"

namespace qtool {

void look_up_64__avx512vbmi(const LookUpArgs& args) noexcept {
  const __m512i t0 = _mm512_loadu_si512(args.table), t1 = _mm512_loadu_si512(args.table + 64);
  const __m512i t2 = _mm512_loadu_si512(args.table + 128);
  const __m512i t3 = _mm512_loadu_si512(args.table + 192);
  for (int64_t row = 0; row < args.n_rows; ++row) {
    uint8_t* y = args.y + row * args.pitch;
    for (int64_t i = 0; i < args.n; i += 64) {
      const int64_t left = args.n - i;
      const __mmask64 mask = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
      const __m512i x = _mm512_maskz_loadu_epi8(mask, y + i);
      const __m512i low = _mm512_permutex2var_epi8(t0, x, t1);
      const __m512i high = _mm512_permutex2var_epi8(t2, x, t3);
      const __m512i both = _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
      _mm512_mask_storeu_epi8(y + i, mask, both);
    }
  }
}

}  // namespace qtool
