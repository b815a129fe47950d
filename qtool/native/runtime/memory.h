// Memory that starts at a cache line, and may be read kSlack bytes beyond its end. Much of it lies
// in large pages where the system has them, so that addresses of weights are found at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "runtime/program.h"

namespace qtool {

class Memory {
  static constexpr size_t kLargePage = 2 << 20;

  struct Free {
    size_t align;
    void operator()(uint8_t* p) const noexcept { ::operator delete[](p, std::align_val_t{align}); }
  };

 public:
  Memory() = default;

  // All zero, so that what kernels read beyond a tensor's end never depends on the past.
  explicit Memory(size_t n_bytes) : Memory(reserve(n_bytes)) {
    std::memset(data(), 0, n_bytes + kSlack);
  }

  // Whatever was there; takes no pages before they are written.
  static Memory reserve(size_t n_bytes) {
    Memory memory;
    const size_t align = n_bytes < kLargePage ? kAlign : kLargePage;
    auto* p = static_cast<uint8_t*>(::operator new[](n_bytes + kSlack, std::align_val_t{align}));
    memory.bytes_ = {p, Free{align}};
    memory.size_ = n_bytes;
#if defined(__linux__)
    if (align == kLargePage) madvise(p, n_bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
    return memory;
  }

  uint8_t* data() const noexcept { return bytes_.get(); }
  size_t size() const noexcept { return size_; }

 private:
  std::unique_ptr<uint8_t[], Free> bytes_{nullptr, Free{kAlign}};
  size_t size_ = 0;
};

inline size_t aligned(size_t n_bytes) noexcept { return (n_bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace qtool
