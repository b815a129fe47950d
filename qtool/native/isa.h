// The instruction sets that kernels are compiled for, and which of them this machine may run.
#pragma once

namespace qtool {

enum class Isa { kScalar, kNeon, kAvx2, kAvxVnni, kAvx512, kAmx };

// The lower-case name that QTOOL_ISA and Python use: "scalar", "neon", "avx2", "avxvnni", "avx512",
// "amx".
const char* isa_name(Isa isa) noexcept;

// Whether the processor and the operating system can run it. kAvx2 includes FMA and BMI2; kAvxVnni
// is kAvx2 and the 256-bit vpdpbusd; kAvx512 means F, BW, DQ and VL; kAmx means int8 tiles, with
// kAvx512 and its vpdpbusd, and asking about it asks the operating system for them.
bool supports(Isa isa) noexcept;

// The instruction set of that name, the highest one for "". Throws std::invalid_argument.
Isa isa_named(const char* name);

// Whether dispatch may choose it: supported, and not above what the environment variable QTOOL_ISA
// names. An unknown name there throws std::invalid_argument.
bool allowed(Isa isa);

// Whether an ARM processor has sdot, and sudot; what kNeon kernels may need beyond kNeon.
bool has_arm_dotprod() noexcept;
bool has_arm_i8mm() noexcept;

[[noreturn]] void refuse_isa(const char* wanted);
bool same_name(const char* a, const char* b) noexcept;

// The first variant that may run; variants are listed fastest first and end with a scalar one.
// A name in wanted asks for that one: std::invalid_argument when this machine does not have it.
template <typename Variant, int n>
const Variant& select(const Variant (&variants)[n], const char* wanted) {
  for (const Variant& variant : variants) {
    if (*wanted == '\0' ? allowed(variant.isa)
                        : same_name(wanted, isa_name(variant.isa)) && supports(variant.isa)) {
      return variant;
    }
  }
  refuse_isa(wanted);
}

}  // namespace qtool
