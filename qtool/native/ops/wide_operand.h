// Activations of wide products: integers of 8 or 16 bits, as int16 rows.
#pragma once

#include "gemm_s16/product.h"

namespace qtool {

// How a type of activations becomes int16: less `middle`. 8-bit ones less their zero point, so that
// 0 is 0; of wider ones that would need 17 bits, and the sums make up for it (eq. 3).
struct WideOperand {
  DType dtype;
  int32_t lowest, highest;

  explicit WideOperand(const OpView& op, DType dtype) : dtype(dtype), lowest(0), highest(65535) {
    if (dtype == DType::kInt16) lowest = -32768, highest = 32767;
    if (dtype == DType::kUint8) highest = 255;
    op.require(dtype == DType::kUint8 || dtype == DType::kUint16 || dtype == DType::kInt16,
               "an operand is neither uint8 nor of 16 bits");
  }

  bool narrow() const noexcept { return dtype == DType::kUint8; }
  int bits() const noexcept { return narrow() ? 8 : 15; }

  // What is taken off.
  int32_t middle(int32_t zero) const noexcept {
    return narrow() ? zero : dtype == DType::kUint16 ? 32768 : 0;
  }
};

// Calls body(Type<T>) with the type of an operand.
template <typename Body>
void with_wide(DType dtype, const Body& body) {
  if (dtype == DType::kUint8) {
    body(uint8_t{});
  } else if (dtype == DType::kUint16) {
    body(uint16_t{});
  } else {
    body(int16_t{});
  }
}

}  // namespace qtool
