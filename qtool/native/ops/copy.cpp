// Copy: y[y_start + sum i[d] * y_stride[d]] = x[x_start + sum i[d] * x_stride[d]], for 0 <= i < n.
// Transpose, Slice, Split, Concat, Expand, Pad, DepthToSpace and nearest Resize by whole factors.
// Fill: y = the same element everywhere.
//
// ints of Copy   x_start, y_start, then n, x_stride and y_stride of each of up to 8 dims, outermost
//                first; all in elements
// ints of Fill   the element's bits
#include <cstring>

#include "ops/rows.h"

namespace qtool {
namespace {

constexpr int kMostDims = 8;

struct Walk {
  int dims = 0;
  int64_t n[kMostDims], x[kMostDims], y[kMostDims], x_start, y_start;
};

Walk read_walk(const OpView& op) {
  constexpr int64_t kMost = int64_t{1} << 40;
  op.require(op.n_ints() >= 2 && op.n_ints() % 3 == 2 && op.n_ints() <= 2 + 3 * kMostDims,
             "wrong number of parameters");
  Walk walk{};
  walk.x_start = op.integer(0, 0, kMost);
  walk.y_start = op.integer(1, 0, kMost);
  int64_t total = 1;
  for (size_t i = 2; i < op.n_ints(); i += 3) {
    walk.n[walk.dims] = op.integer(i, 1, INT32_MAX);
    walk.x[walk.dims] = op.integer(i + 1, -kMost, kMost);
    walk.y[walk.dims] = op.integer(i + 2, -kMost, kMost);
    op.require(walk.n[walk.dims] <= kMost / total, "it copies too much");
    total *= walk.n[walk.dims++];
  }
  return walk;
}

// Checks that every element walked over lies in the tensor. Sums stay below 9 * 2^(22 + 40).
void check_bounds(const OpView& op, const Tensor& t, int64_t start, int dims, const int64_t* n,
                  const int64_t* stride) {
  const int64_t last = t.bytes / int64_t(item_bytes(t.dtype)) - 1;
  int64_t low = start, high = start;
  for (int d = 0; d < dims; ++d) {
    const int64_t most = (int64_t{1} << 41) / n[d];
    op.require(stride[d] <= most && stride[d] >= -most, "it steps outside a tensor");
    (stride[d] < 0 ? low : high) += (n[d] - 1) * stride[d];
  }
  op.require(low >= 0 && high <= last, "it steps outside a tensor");
}

// Joins dims that are one in both tensors, and drops those of one element.
void simplify(Walk& walk) {
  Walk made{};
  made.x_start = walk.x_start, made.y_start = walk.y_start;
  for (int d = 0; d < walk.dims; ++d) {
    if (walk.n[d] == 1) continue;
    const int last = made.dims - 1;
    if (last >= 0 && made.x[last] == walk.x[d] * walk.n[d] &&
        made.y[last] == walk.y[d] * walk.n[d]) {
      made.n[last] *= walk.n[d], made.x[last] = walk.x[d], made.y[last] = walk.y[d];
    } else {
      made.n[made.dims] = walk.n[d], made.x[made.dims] = walk.x[d], made.y[made.dims] = walk.y[d];
      ++made.dims;
    }
  }
  if (made.dims == 0) made.dims = 1, made.n[0] = 1, made.x[0] = made.y[0] = 1;
  walk = made;
}

template <typename T>
class Copy final : public Op {
 public:
  Copy(const OpView& op, const Walk& walk)
      : x_(op.input(0).id), y_(op.output(0).id), walk_(walk), outer_(1) {
    for (int d = 0; d + 1 < walk.dims; ++d) outer_ *= walk.n[d];
  }

  void run(const Run& run) const noexcept override {
    const int inner = walk_.dims - 1;
    const int64_t n = walk_.n[inner];
    if (outer_ == 1) {
      const int64_t sx = walk_.x[inner], sy = walk_.y[inner];
      run.pool->split(n, kLeastElements, [&](int64_t begin, int64_t end, int) {
        copy_row(run.at<const T>(x_) + walk_.x_start + begin * sx,
                 run.at<T>(y_) + walk_.y_start + begin * sy, end - begin, sx, sy);
      });
      return;
    }
    run.pool->split(outer_, 1 + kLeastElements / n, [&](int64_t begin, int64_t end, int) {
      copy_rows(run.at<const T>(x_), run.at<T>(y_), begin, end);
    });
  }

 private:
  static void copy_row(const T* x, T* y, int64_t n, int64_t sx, int64_t sy) noexcept {
    if (sx == 1 && sy == 1) {
      std::memmove(y, x, size_t(n) * sizeof(T));
    } else if (sx == 0 && sy == 1) {
      std::fill(y, y + n, *x);
    } else {
      for (int64_t i = 0; i < n; ++i) y[i * sy] = x[i * sx];
    }
  }

  void copy_rows(const T* x, T* y, int64_t begin, int64_t end) const noexcept {
    const int inner = walk_.dims - 1;
    int64_t at[kMostDims], rest = begin, dx = walk_.x_start, dy = walk_.y_start;
    for (int d = inner - 1; d >= 0; --d) {
      at[d] = rest % walk_.n[d];
      rest /= walk_.n[d];
      dx += at[d] * walk_.x[d], dy += at[d] * walk_.y[d];
    }
    for (int64_t row = begin; row < end; ++row) {
      copy_row(x + dx, y + dy, walk_.n[inner], walk_.x[inner], walk_.y[inner]);
      for (int d = inner - 1; d >= 0; --d) {
        dx += walk_.x[d], dy += walk_.y[d];
        if (++at[d] < walk_.n[d]) break;
        dx -= walk_.n[d] * walk_.x[d], dy -= walk_.n[d] * walk_.y[d];
        at[d] = 0;
      }
    }
  }

  int32_t x_, y_;
  Walk walk_;
  int64_t outer_;
};

template <typename T>
class Fill final : public Op {
 public:
  explicit Fill(const OpView& op) : y_(op.output(0).id), loop_(op.output(0), true) {
    const int64_t bits = op.integer(0, INT64_MIN, INT64_MAX);
    std::memcpy(&value_, &bits, sizeof value_);
  }

  void run(const Run& run) const noexcept override {
    loop_.run(run.pool, [&](int64_t row, int64_t begin, int64_t end) {
      T* y = run.at<T>(y_) + row * loop_.pitch;
      std::fill(y + begin, y + end, value_);
    });
  }

 private:
  int32_t y_;
  RowLoop loop_;
  T value_;
};

}  // namespace

std::unique_ptr<Op> make_copy(const OpView& op) {
  op.require(op.n_inputs() == 1 && op.n_outputs() == 1, "wrong number of inputs or outputs");
  const Tensor &x = op.input(0), &y = op.output(0);
  op.require(x.dtype == y.dtype, "x and y differ in type");
  Walk walk = read_walk(op);
  check_bounds(op, x, walk.x_start, walk.dims, walk.n, walk.x);
  check_bounds(op, y, walk.y_start, walk.dims, walk.n, walk.y);
  int64_t total = 1;
  for (int d = 0; d < walk.dims; ++d) total *= walk.n[d];
  op.require(total <= y.size(), "it writes an element twice");
  simplify(walk);
  switch (item_bytes(x.dtype)) {
    case 1:
      return std::make_unique<Copy<uint8_t>>(op, walk);
    case 2:
      return std::make_unique<Copy<uint16_t>>(op, walk);
    case 4:
      return std::make_unique<Copy<uint32_t>>(op, walk);
    default:
      return std::make_unique<Copy<uint64_t>>(op, walk);
  }
}

std::unique_ptr<Op> make_fill(const OpView& op) {
  op.counts(0, 1, 1, 0);
  switch (item_bytes(op.output(0).dtype)) {
    case 1:
      return std::make_unique<Fill<uint8_t>>(op);
    case 2:
      return std::make_unique<Fill<uint16_t>>(op);
    case 4:
      return std::make_unique<Fill<uint32_t>>(op);
    default:
      return std::make_unique<Fill<uint64_t>>(op);
  }
}

}  // namespace qtool
