#include "conv/plan.h"

#include <algorithm>
#include <cstring>

namespace qtool {
namespace {

constexpr int64_t kFarWeights = 768 << 10, kFarBlock = 512 << 10;
constexpr int64_t kLeastChannels = 128;  // for each thread that shares them
constexpr int64_t kLeastPixels = 96;  // of a block, for what reading weights from the cache costs

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool leaves_image(const ConvArgs& a, const ConvPlan& p) noexcept {
  const int64_t bottom = int64_t{a.out_h - 1} * a.stride_h - a.pad_top + p.window_h;
  const int64_t right = int64_t{a.out_w - 1} * a.stride_w - a.pad_left + p.window_w;
  return a.pad_top > 0 || a.pad_left > 0 || bottom > a.in_h || right > a.in_w;
}

void cut_segments(const ConvArgs& a, ConvPlan& p) noexcept {
  const bool taps_touch =
      a.groups == 1 && p.pitch == a.in_c && (a.dilation_w == 1 || a.kernel_w == 1);
  const bool rows_touch = taps_touch && p.row_w == a.kernel_w && a.dilation_h == 1;
  p.n_segments = rows_touch ? 1 : taps_touch ? a.kernel_h : a.kernel_h * a.kernel_w;
  p.segment_bytes = a.depth() / p.n_segments;
}

int64_t block_row_bytes(const ConvPlan& p) noexcept { return p.row_w * p.pitch; }

// Whether threads had better share the channels than the pixels: each then reads all of x, but only
// its part of the weights.
bool shares_channels(const ConvArgs& a) noexcept {
  const int64_t x_bytes = int64_t{a.n} * a.in_h * a.in_w * a.in_c;
  return a.threads > 1 && a.out_c >= kLeastChannels * a.threads &&
         int64_t{a.out_c} * a.depth() > x_bytes;
}

// While weights fit the second cache, blocks whose input and output fit the first one, so that each
// is read or written there by all panels; else blocks as large as the second one takes, because
// weights then come from afar. Copied blocks have some lines at least: borders are copied twice.
int64_t best_lines(const ConvArgs& a, const ConvPlan& p, int64_t block_bytes) noexcept {
  const int64_t x_bytes = p.flat ? p.step : block_row_bytes(p) * a.stride_h;
  const int64_t y_bytes =
      int64_t{a.out_c} * (a.epilogue.float_output ? 4 : 1) * (p.flat ? 1 : p.line);
  if (int64_t{a.out_c} * a.depth() > kFarWeights || shares_channels(a)) {
    return std::max<int64_t>(1, kFarBlock / x_bytes);
  }
  const int64_t least_pixels = ceil_div(kLeastPixels, p.flat ? 1 : p.line);
  const int64_t overlap = p.copied ? 3 * std::max<int64_t>(0, p.window_h - a.stride_h) : 0;
  return std::max({int64_t{1}, block_bytes / (x_bytes + y_bytes), least_pixels, overlap});
}

// At least one block for each thread, where weights are so few that reading them again is cheap.
void cut_blocks(const ConvArgs& a, int32_t tile_pixels, int64_t block_bytes, ConvPlan& p) noexcept {
  const int64_t lines = p.flat ? a.pixels() : a.out_h;
  int64_t n = ceil_div(lines, std::min(lines, best_lines(a, p, block_bytes)));
  if (int64_t{a.out_c} * a.depth() <= kFarWeights && !shares_channels(a)) {
    n = ceil_div(n, a.threads) * a.threads;
  }
  int64_t block = ceil_div(lines, std::min(n, lines));
  if (p.flat) block = ceil_div(block, tile_pixels) * tile_pixels;
  p.block_lines = int32_t(std::min(block, lines));
  p.n_blocks = ceil_div(lines, p.block_lines) * (p.flat ? 1 : a.n);
}

int64_t rows_read(const ConvArgs& a, const ConvPlan& p, int64_t lines) noexcept {
  return (lines - 1) * a.stride_h + p.window_h;
}

// Copies count pixels from x, skipping what lies between them.
uint8_t* copy_pixels(const ConvArgs& a, const uint8_t* x, int64_t count, uint8_t* to) noexcept {
  if (a.x_pitch == a.in_c) {
    std::memcpy(to, x, size_t(count) * size_t(a.in_c));
    return to + count * a.in_c;
  }
  for (int64_t i = 0; i < count; ++i, x += a.x_pitch, to += a.in_c) {
    std::memcpy(to, x, size_t(a.in_c));
  }
  return to;
}

// May write 15 bytes beyond, which what follows overwrites, or nobody reads.
uint8_t* fill_pixels(const ConvArgs& a, int64_t count, uint8_t* to) noexcept {
  const auto n = size_t(count) * size_t(a.in_c);
  if (n > 128) {
    std::memset(to, a.x_zero_point, n);
  } else {
    for (size_t i = 0; i < n; i += 16) std::memset(to + i, a.x_zero_point, 16);
  }
  return to + n;
}

// Rows top .. top + n_rows - 1 of an image, and the pixels of each that windows reach.
void copy_rows(const ConvCall& call, const ConvPlan& p, int64_t image, int64_t top, int64_t n_rows,
               uint8_t* to) noexcept {
  const ConvArgs& a = *call.args;
  const int64_t left = std::min<int64_t>(a.pad_left, p.row_w);
  const int64_t inside = std::clamp<int64_t>(p.row_w - left, 0, a.in_w);
  for (int64_t row = top; row < top + n_rows; ++row) {
    if (row < 0 || row >= a.in_h) {
      to = fill_pixels(a, p.row_w, to);
      continue;
    }
    to = fill_pixels(a, left, to);
    to = copy_pixels(a, call.x + (image * a.in_h + row) * a.in_w * a.x_pitch, inside, to);
    to = fill_pixels(a, p.row_w - left - inside, to);
  }
}

}  // namespace

int64_t ConvPlan::offset(const ConvArgs& a, int32_t segment) const noexcept {
  const int32_t per_row = n_segments == 1 ? 1 : n_segments / a.kernel_h;
  const int64_t row = segment / per_row, column = segment % per_row;
  return (row * a.dilation_h * row_w + column * a.dilation_w) * pitch;
}

ConvPlan plan_conv(const ConvArgs& a, int32_t tile_pixels, int64_t block_bytes) noexcept {
  ConvPlan p{};
  p.group_in = a.in_c / a.groups;
  p.group_out = a.out_c / a.groups;
  p.window_h = int64_t{a.kernel_h - 1} * a.dilation_h + 1;
  p.window_w = int64_t{a.kernel_w - 1} * a.dilation_w + 1;
  p.copied = leaves_image(a, p);
  p.row_w = p.copied ? int64_t{a.out_w - 1} * a.stride_w + p.window_w : a.in_w;
  p.pitch = p.copied ? a.in_c : a.x_pitch;
  p.step = a.stride_w * p.pitch;
  const int64_t line_w = int64_t{a.out_w} * a.stride_w;  // in pixels of x
  const bool lines_follow = a.out_h == 1 || line_w == a.stride_h * p.row_w;
  const bool images_follow = a.n == 1 || line_w * a.out_h == a.in_h * p.row_w;
  p.flat = tile_pixels > 0 && !p.copied && lines_follow && images_follow;
  p.line = p.flat ? int32_t(a.pixels()) : a.out_w;
  cut_segments(a, p);
  cut_blocks(a, tile_pixels, block_bytes, p);
  if (p.copied) p.copy_bytes = size_t(rows_read(a, p, p.block_lines)) * size_t(p.row_w * p.pitch);
  return p;
}

bool plan_fits(const ConvArgs& a, const ConvPlan& p) noexcept {
  const double window = double(p.window_h) * double(p.row_w) * double(p.pitch);
  const double copied =
      double(p.row_w) * a.in_c * (double(p.window_h) + double(p.block_lines) * a.stride_h);
  return window < INT32_MAX && (!p.copied || copied <= double(kMostCopyBytes)) &&
         a.pixels() < INT32_MAX;
}

ConvBlock open_block(const ConvCall& call, const ConvPlan& p, int64_t index,
                     uint8_t* copy) noexcept {
  const ConvArgs& a = *call.args;
  ConvBlock block{};
  if (p.flat) {
    block.first_pixel = index * p.block_lines;
    block.n_pixels = int32_t(std::min<int64_t>(p.block_lines, a.pixels() - block.first_pixel));
    block.n_lines = 1;
    block.x = call.x + block.first_pixel * p.step;
    return block;
  }
  const int64_t per_image = ceil_div(a.out_h, p.block_lines);
  const int64_t image = index / per_image, line = index % per_image * p.block_lines;
  block.first_pixel = (image * a.out_h + line) * a.out_w;
  block.n_lines = int32_t(std::min<int64_t>(p.block_lines, a.out_h - line));
  block.n_pixels = block.n_lines * p.line;
  block.line_step = a.stride_h * block_row_bytes(p);
  const int64_t top = line * a.stride_h - a.pad_top;
  if (p.copied) {
    if (call.held == nullptr || *call.held != index) {
      copy_rows(call, p, image, top, rows_read(a, p, block.n_lines), copy);
    }
    if (call.held != nullptr) *call.held = index;
    block.x = copy;
  } else {
    block.x = call.x + (image * a.in_h + top) * block_row_bytes(p);
  }
  return block;
}

}  // namespace qtool
