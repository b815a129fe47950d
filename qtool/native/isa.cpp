#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace qtool {
namespace {

constexpr Isa kAll[] = {Isa::kScalar,  Isa::kNeon,   Isa::kAvx2,
                        Isa::kAvxVnni, Isa::kAvx512, Isa::kAmx};

Isa cap() {
  const char* name = std::getenv("QTOOL_ISA");
  return isa_named(name == nullptr ? "" : name);
}

#if defined(__x86_64__)
bool has_avxvnni() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) == 1;
}

bool has_amx_int8() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;  // leaf 7: bit 24 of edx is AMX-TILE, bit 25 AMX-INT8
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 3) == 3 &&
         supports(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
}

// Tiles are 8 KiB of state for each thread, which Linux gives to processes that ask.
bool permit_tiles() noexcept {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "";
}

bool supports(Isa isa) noexcept {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
  }
  if (isa == Isa::kAvxVnni) return supports(Isa::kAvx2) && has_avxvnni();
  if (isa == Isa::kAmx) {
    static const bool permitted = has_amx_int8() && permit_tiles();
    return permitted;
  }
  if (isa == Isa::kAvx512) {
    return supports(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) return true;  // part of the base architecture
#endif
  return isa == Isa::kScalar;
}

Isa isa_named(const char* name) {
  if (*name == '\0') return Isa::kAmx;
  for (Isa isa : kAll) {
    if (same_name(name, isa_name(isa))) return isa;
  }
  throw std::invalid_argument(std::string("QTOOL_ISA or isa is '") + name +
                              "'; it may be scalar, neon, avx2, avxvnni, avx512 or amx");
}

#if defined(__aarch64__) && defined(__linux__)
bool has_arm_dotprod() noexcept { return (getauxval(AT_HWCAP) >> 20 & 1) == 1; }  // ASIMDDP
bool has_arm_i8mm() noexcept { return (getauxval(AT_HWCAP2) >> 13 & 1) == 1; }    // I8MM
#elif defined(__aarch64__) && defined(__APPLE__)
static bool has_feature(const char* name) noexcept {
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname(name, &found, &size, nullptr, 0) == 0 && found == 1;
}
bool has_arm_dotprod() noexcept { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_arm_i8mm() noexcept { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_arm_dotprod() noexcept { return false; }
bool has_arm_i8mm() noexcept { return false; }
#endif

bool allowed(Isa isa) { return isa <= cap() && supports(isa); }

bool same_name(const char* a, const char* b) noexcept { return std::strcmp(a, b) == 0; }

void refuse_isa(const char* wanted) {
  throw std::invalid_argument(std::string("no kernel for instruction set '") + wanted +
                              "' on this machine");
}

}  // namespace qtool
