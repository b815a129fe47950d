// Reading and writing the bytes of streams: nothing is read that is not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qtool::codecs {

using Bytes = std::vector<uint8_t>;

// Where a decoder is in its bytes. Once anything was not there, ok stays false and reads give 0.
struct Reader {
  const uint8_t* at;
  const uint8_t* end;
  bool ok = true;

  size_t left() const noexcept { return static_cast<size_t>(end - at); }

  uint8_t byte() noexcept {
    if (at == end) {
      ok = false;
      return 0;
    }
    return *at++;
  }

  // LEB128 in its shortest form, below 2**56.
  uint64_t number() noexcept {
    uint64_t value = 0;
    for (int shift = 0; shift < 56; shift += 7) {
      const uint8_t next = byte();
      value |= uint64_t{next & 127u} << shift;
      if (next < 128) {
        if (next == 0 && shift > 0) ok = false;
        return value;
      }
    }
    ok = false;
    return 0;
  }
};

inline void put_number(Bytes& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<uint8_t>(value | 128));
  out.push_back(static_cast<uint8_t>(value));
}

}  // namespace qtool::codecs
