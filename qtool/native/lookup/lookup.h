// y[i][k] = table[y[i][k]]: what an epilogue's table does to bytes that are stored.
#pragma once

#include <cstdint>

#include "isa.h"

namespace qtool {

struct LookUpArgs {
  const uint8_t* table;  // (256,)
  uint8_t* y;            // (n_rows, n), rows pitch bytes apart; only these bytes are written
  int64_t n_rows, n, pitch;
};

using LookUpKernel = void (*)(const LookUpArgs&) noexcept;

// With the fastest kernel that this machine may run.
void look_up(const LookUpArgs& args) noexcept;

struct LookUpVariant {
  const char* name;
  Isa isa;
  bool (*available)() noexcept;
  LookUpKernel run;
};

#define QTOOL_LOOKUP(isa, name, available) void name(const LookUpArgs&) noexcept;
#include "lookup/kernels.inc"
#undef QTOOL_LOOKUP

const LookUpVariant* look_up_variants() noexcept;
int n_look_up_variants() noexcept;

}  // namespace qtool
