#include <algorithm>
#include <cmath>
#include <vector>

#include "compress/compress.h"

namespace qtool {
namespace {

// Best[i]: the largest sum of sums^2 / counts that the points in front of i give in so many
// clusters. The first point of the last cluster grows with i: divide and conquer.
class Program {
 public:
  Program(size_t n, const double* counts, const double* sums)
      : n_(n), counts_(n + 1), sums_(n + 1) {
    for (size_t i = 0; i < n; ++i) {
      counts_[i + 1] = counts_[i] + counts[i];
      sums_[i + 1] = sums_[i] + sums[i];
    }
  }

  // What one cluster of points [begin, end) gives.
  double gain(size_t begin, size_t end) const {
    const double count = counts_[end] - counts_[begin], sum = sums_[end] - sums_[begin];
    return count > 0 ? sum * sum / count : 0;
  }

  void layer(const std::vector<double>& before, std::vector<double>& best, int32_t* start) const {
    split(before, best, start, 0, n_, 0, n_);
  }

 private:
  void split(const std::vector<double>& before, std::vector<double>& best, int32_t* start,
             size_t low, size_t high, size_t first, size_t last) const {
    if (low > high) return;
    const size_t middle = low + (high - low) / 2;
    double most = -HUGE_VAL;
    size_t where = first;
    for (size_t i = first; i <= std::min(middle, last); ++i) {
      const double value = before[i] + gain(i, middle);
      if (value > most) {
        most = value;
        where = i;
      }
    }
    best[middle] = most;
    start[middle] = static_cast<int32_t>(where);
    if (middle > low) split(before, best, start, low, middle - 1, first, where);
    split(before, best, start, middle + 1, high, where, last);
  }

  size_t n_;
  std::vector<double> counts_, sums_;
};

}  // namespace

void optimal_clusters(size_t n, const double* counts, const double* sums, size_t k,
                      int32_t* bounds) {
  const Program program(n, counts, sums);
  std::vector<double> before(n + 1), best(n + 1);
  for (size_t i = 0; i <= n; ++i) before[i] = program.gain(0, i);
  std::vector<int32_t> starts(k * (n + 1));
  for (size_t layer = 1; layer < k; ++layer) {
    program.layer(before, best, starts.data() + layer * (n + 1));
    before.swap(best);
  }
  size_t end = n;
  for (size_t layer = k; layer-- > 0;) {
    const int32_t start = layer == 0 ? 0 : starts[layer * (n + 1) + end];
    bounds[layer] = start;
    end = static_cast<size_t>(start);
  }
}

void nearest(size_t n, const float* values, size_t n_centroids, const float* centroids,
             uint8_t* indices) {
  std::vector<float> middles(n_centroids);
  for (size_t i = 0; i + 1 < n_centroids; ++i) {
    middles[i] = static_cast<float>((double{centroids[i]} + centroids[i + 1]) / 2);
  }
  const size_t last = n_centroids - 1;
  for (size_t v = 0; v < n; ++v) {
    const float* base = middles.data();
    for (size_t left = last; left > 0;) {  // without branches: half is always taken
      const size_t half = (left + 1) / 2;
      base += base[half - 1] < values[v] ? half : 0;
      left -= half;
    }
    indices[v] = static_cast<uint8_t>(base - middles.data());
  }
}

void bin_values(size_t n, const float* values, const float* weights, double low,
                double inverse_width, size_t n_bins, double* counts, double* sums) {
  const double last = static_cast<double>(n_bins - 1);
  for (size_t i = 0; i < n; ++i) {
    const double place = std::min(std::max((values[i] - low) * inverse_width, 0.0), last);
    const double weight = weights == nullptr ? 1.0 : double{weights[i]};
    counts[static_cast<size_t>(place)] += weight;
    sums[static_cast<size_t>(place)] += weight * values[i];
  }
}

}  // namespace qtool
