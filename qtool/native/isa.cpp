#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace qtool {
namespace {

constexpr Isa kAll[] = {Isa::kScalar, Isa::kNeon, Isa::kAvx2, Isa::kAvx512};

Isa cap() {
  const char* name = std::getenv("QTOOL_ISA");
  return isa_named(name == nullptr ? "" : name);
}

}  // namespace

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "";
}

bool supports(Isa isa) noexcept {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2");
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
  if (*name == '\0') return Isa::kAvx512;
  for (Isa isa : kAll) {
    if (same_name(name, isa_name(isa))) return isa;
  }
  throw std::invalid_argument(std::string("QTOOL_ISA or isa is '") + name +
                              "'; it may be scalar, neon, avx2 or avx512");
}

bool allowed(Isa isa) { return isa <= cap() && supports(isa); }

bool same_name(const char* a, const char* b) noexcept { return std::strcmp(a, b) == 0; }

void refuse_isa(const char* wanted) {
  throw std::invalid_argument(std::string("no kernel for instruction set '") + wanted +
                              "' on this machine");
}

}  // namespace qtool
