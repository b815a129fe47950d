// Memory that starts at a cache line, and may be read kSlack bytes beyond its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "runtime/program.h"

namespace qtool {

class Memory {
 public:
  Memory() = default;

  // All zero, so that what kernels read beyond a tensor's end never depends on the past.
  explicit Memory(size_t n_bytes) : bytes_(allocate(n_bytes)), size_(n_bytes) {}

  uint8_t* data() const noexcept { return bytes_.get(); }
  size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const noexcept { ::operator delete[](p, std::align_val_t{kAlign}); }
  };

  static uint8_t* allocate(size_t n_bytes) {
    auto* p = static_cast<uint8_t*>(::operator new[](n_bytes + kSlack, std::align_val_t{kAlign}));
    std::memset(p, 0, n_bytes + kSlack);
    return p;
  }

  std::unique_ptr<uint8_t[], Free> bytes_;
  size_t size_ = 0;
};

inline size_t aligned(size_t n_bytes) noexcept { return (n_bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace qtool
