#include "gram/gram.h"

#include <algorithm>
#include <cmath>

namespace qtool {
namespace {

const GramVariant kVariants[] = {
#define QTOOL_GRAM(isa, tile) {isa, tile},
#include "gram/kernels.inc"
#undef QTOOL_GRAM
};

constexpr size_t kPositions = 256;  // packed at a time: a panel is 16 KiB
constexpr size_t kPanels = 32;      // that share the second cache while all rows pass by
constexpr size_t kTileSize = kTile * kTile;

size_t panels_of(int64_t depth) noexcept { return static_cast<size_t>(depth) / kTile + 1; }

size_t n_tiles(size_t panels) noexcept { return panels * (panels + 1) / 2; }

// Tiles are stored column by column of the upper triangle.
size_t tile_at(size_t i, size_t j) noexcept { return j * (j + 1) / 2 + i; }

}  // namespace

Gram::Gram(int64_t groups, int64_t depth, const char* isa)
    : kernels_(select(kVariants, isa)),
      groups_(groups),
      depth_(depth),
      panels_(panels_of(depth)),
      state_(static_cast<size_t>(groups) * n_tiles(panels_) * kTileSize) {}

bool Gram::update(const Patches& patches) {
  std::vector<double> packed(panels_ * kPositions * kTile);
  std::vector<double> sums(n_tiles(panels_) * kTileSize);
  for (int64_t group = 0; group < groups_; ++group) {
    std::fill(sums.begin(), sums.end(), 0.0);
    sum_group(patches, group, packed, sums);
    const auto in_range = [](double v) { return std::abs(v) < kGramLimit; };
    if (!std::all_of(sums.begin(), sums.end(), in_range)) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!add_group(group, sums)) return false;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  count_ += patches.positions();
  return true;
}

void Gram::sum_group(const Patches& patches, int64_t group, std::vector<double>& packed,
                     std::vector<double>& sums) const noexcept {
  const int64_t positions = patches.positions();
  for (int64_t first = 0; first < positions; first += kPositions) {
    const size_t n = static_cast<size_t>(std::min<int64_t>(kPositions, positions - first));
    pack(patches, group, first, n, packed.data());
    const auto panel = [&](size_t i) { return packed.data() + i * n * kTile; };
    for (size_t start = 0; start < panels_; start += kPanels) {
      const size_t end = std::min(start + kPanels, panels_);
      for (size_t i = 0; i < end; ++i) {
        for (size_t j = std::max(i, start); j < end; ++j) {
          kernels_.tile(panel(i), panel(j), n, sums.data() + tile_at(i, j) * kTileSize);
        }
      }
    }
  }
}

// v = whole + part, both exact; |part| <= 1/2, so its fixed-point form fits 64 bits.
bool Gram::add_group(int64_t group, const std::vector<double>& sums) noexcept {
  Int128* state = state_.data() + static_cast<size_t>(group) * sums.size();
  bool overflow = false;
  for (size_t i = 0; i < sums.size(); ++i) {
    const int64_t whole = std::llrint(sums[i]);
    const double part = sums[i] - static_cast<double>(whole);
    const Int128 fixed =
        (static_cast<Int128>(whole) * (Int128{1} << kGramExponent)) + std::llrint(part * 0x1p63);
    overflow |= __builtin_add_overflow(state[i], fixed, &state[i]);
  }
  return !overflow;
}

int64_t Gram::count() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

void Gram::read(uint64_t* values) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t rows = static_cast<size_t>(size());
  for (size_t group = 0; group < static_cast<size_t>(groups_); ++group) {
    const Int128* state = state_.data() + group * n_tiles(panels_) * kTileSize;
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = i; j < rows; ++j) {
        const Int128 value =
            state[tile_at(i / kTile, j / kTile) * kTileSize + i % kTile * kTile + j % kTile];
        *values++ = static_cast<uint64_t>(value);
        *values++ = static_cast<uint64_t>(value >> 64);
      }
    }
  }
}

double Gram::state_bytes(int64_t groups, int64_t depth) noexcept {
  const double tiles = static_cast<double>(n_tiles(panels_of(depth)));
  return static_cast<double>(groups) * tiles * kTileSize * sizeof(Int128);
}

double Gram::scratch_bytes(int64_t depth) noexcept {
  const size_t panels = panels_of(depth);
  const size_t packed = panels * kPositions * kTile;
  return static_cast<double>((packed + n_tiles(panels) * kTileSize) * sizeof(double));
}

}  // namespace qtool
