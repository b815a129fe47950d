// Memory of packed weights: what one op takes lies right behind what the op before it took, so that
// a kernel that fetches ahead of what it reads comes to the weights of the next op by itself.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/memory.h"

namespace qtool {

class Weights {
 public:
  // Expecting about so many bytes in all.
  explicit Weights(size_t expected) noexcept : expected_(expected) {}

  // All zero, aligned to a cache line, and there as long as this is.
  uint8_t* take(size_t n_bytes) {
    const size_t size = aligned(n_bytes);
    if (chunks_.empty() || chunks_.back().size() - taken_ < size) {
      chunks_.push_back(
          Memory::reserve(std::max(size, chunks_.empty() ? expected_ : expected_ / 4)));
      taken_ = 0;
    }
    uint8_t* const p = chunks_.back().data() + taken_;
    taken_ += size;
    std::memset(p, 0, size);
    return p;
  }

 private:
  const size_t expected_;
  size_t taken_ = 0;  // of the last chunk
  std::vector<Memory> chunks_;
};

}  // namespace qtool
