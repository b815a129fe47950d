// Four tables of 64 entries: tbl gives 0 for an index beyond its table, tbx leaves what is there.
#include <arm_neon.h>

#include "lookup/lookup.h"

namespace qtool {

void look_up_16__neon(const LookUpArgs& args) noexcept {
  uint8x16x4_t tables[4];
  for (int i = 0; i < 16; ++i) tables[i / 4].val[i % 4] = vld1q_u8(args.table + 16 * i);
  for (int64_t row = 0; row < args.n_rows; ++row) {
    uint8_t* y = args.y + row * args.pitch;
    int64_t i = 0;
    for (; i + 16 <= args.n; i += 16) {
      const uint8x16_t x = vld1q_u8(y + i);
      uint8x16_t found = vqtbl4q_u8(tables[0], x);
      found = vqtbx4q_u8(found, tables[1], vsubq_u8(x, vdupq_n_u8(64)));
      found = vqtbx4q_u8(found, tables[2], vsubq_u8(x, vdupq_n_u8(128)));
      found = vqtbx4q_u8(found, tables[3], vsubq_u8(x, vdupq_n_u8(192)));
      vst1q_u8(y + i, found);
    }
    for (; i < args.n; ++i) y[i] = args.table[y[i]];
  }
}

}  // namespace qtool
