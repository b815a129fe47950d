// The elements under the windows of a pooling op, as offsets into the image.
#pragma once

#include <vector>

#include "ops/window.h"

namespace qtool {

class Taps {
 public:
  Taps(const Tensor& x, const Tensor& y, const Window& window)
      : window_(window), in_{x.dims[1], x.dims[2]}, out_{y.dims[1], y.dims[2]}, pitch_(x.pitch) {
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t reach = int64_t{window.kernel[axis] - 1} * window.dilation[axis];
      const int64_t room = in_[axis] - 1 - reach + window.pad[axis];  // of the last whole window
      begin_[axis] = (window.pad[axis] + window.stride[axis] - 1) / window.stride[axis];
      end_[axis] = room < 0 ? 0 : std::min(out_[axis], room / window.stride[axis] + 1);
    }
    for (int64_t i = 0; i < window.kernel[0]; ++i) {
      for (int64_t j = 0; j < window.kernel[1]; ++j) {
        whole_.push_back((i * window.dilation[0] * in_[1] + j * window.dilation[1]) * pitch_);
      }
    }
  }

  int64_t most() const noexcept { return int64_t(whole_.size()); }

  // Calls body(pixel, base, offsets, n) for the pixels begin .. end - 1 of y: its taps inside the
  // image are at base + offsets[i] elements from the start of x. scratch holds most() offsets.
  template <typename Body>
  void each(int64_t begin, int64_t end, int64_t* scratch, const Body& body) const noexcept {
    int64_t q = begin % out_[1], line = begin / out_[1];
    for (int64_t pixel = begin; pixel < end; ++line, q = 0) {
      const int64_t n = line / out_[0], p = line % out_[0];
      const bool whole_rows = p >= begin_[0] && p < end_[0];
      const int64_t first = (n * in_[0] + p * window_.stride[0] - window_.pad[0]) * in_[1];
      for (; q < out_[1] && pixel < end; ++q, ++pixel) {
        if (whole_rows && q >= begin_[1] && q < end_[1]) {
          const int64_t base = (first + q * window_.stride[1] - window_.pad[1]) * pitch_;
          body(pixel, base, whole_.data(), most());
        } else {
          body(pixel, n * in_[0] * in_[1] * pitch_, scratch, cut(p, q, scratch));
        }
      }
    }
  }

 private:
  // The taps of a window that leaves the image, from the start of the image on.
  int64_t cut(int64_t p, int64_t q, int64_t* offsets) const noexcept {
    const Window::Range rows = window_.range(0, p, in_[0]), columns = window_.range(1, q, in_[1]);
    int64_t count = 0;
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t row = p * window_.stride[0] - window_.pad[0] + i * window_.dilation[0];
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const int64_t column = q * window_.stride[1] - window_.pad[1] + j * window_.dilation[1];
        offsets[count++] = (row * in_[1] + column) * pitch_;
      }
    }
    return count;
  }

  Window window_;
  int64_t in_[2], out_[2], pitch_;
  int64_t begin_[2], end_[2];  // the outputs whose windows lie inside the image, per axis
  std::vector<int64_t> whole_;
};

}  // namespace qtool
