// Times each convolution variant on the shapes of real networks, one thread.
//
//   bench_kernels [--variant NAME] [--seconds S] [--repeat N] [--check] shapes.txt...
//
// Runs all layers of a network one after the other for S seconds (default 1), and prints one JSON
// line per shape: how many layers have it, the least time of one, its GMAC/s and share of the peak
// of the variant's instruction, measured just before, and how the time compares with what dispatch
// estimates. Then one line for the network. Without --variant the one that dispatch chooses.
// --check compares with the scalar definition first; --repeat runs a layer N times in a row, so
// that its weights stay in the cache. Built so:
//
//     cmake -S qtool/native -B build/bench -DCMAKE_BUILD_TYPE=Release &&
//         cmake --build build/bench --target bench_kernels
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "conv/conv.h"
#include "peak/peak.h"
#include "runtime/weights.h"

namespace {

using namespace qtool;

constexpr double kClock = 3e9;  // cycles per second that estimates are compared at

double now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

struct Shape {
  int in_h, in_w, in_c, out_c, kernel, stride, pad, groups;
  int adds = 0;  // 1 where a residual is added, in place
};

std::vector<Shape> read_shapes(const char* path) {
  std::ifstream file(path);
  std::vector<Shape> shapes;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Shape s{};
    std::istringstream(line) >> s.in_h >> s.in_w >> s.in_c >> s.out_c >> s.kernel >> s.stride >>
        s.pad >> s.groups >> s.adds;
    shapes.push_back(s);
  }
  return shapes;
}

struct Case {
  ConvArgs args{};
  uint8_t* packed = nullptr;
  uint8_t *x = nullptr, *y = nullptr, *scratch = nullptr;
  std::vector<int8_t> w;
  std::vector<int32_t> bias;
  std::vector<float> scale;

  explicit Case(const Shape& s) {
    ConvArgs& a = args;
    a.n = 1, a.in_h = s.in_h, a.in_w = s.in_w, a.in_c = s.in_c, a.out_c = s.out_c;
    a.out_h = (s.in_h + 2 * s.pad - s.kernel) / s.stride + 1;
    a.out_w = (s.in_w + 2 * s.pad - s.kernel) / s.stride + 1;
    a.kernel_h = a.kernel_w = s.kernel;
    a.stride_h = a.stride_w = s.stride;
    a.dilation_h = a.dilation_w = 1;
    a.pad_top = a.pad_left = s.pad;
    a.groups = s.groups;
    a.x_pitch = a.in_c, a.y_pitch = a.out_c;
    a.x_zero_point = 7;
    a.threads = 1;
    std::mt19937 random(1);
    w.resize(size_t(a.out_c) * size_t(a.depth()));
    std::normal_distribution<float> normal(0, 34);  // as in real networks: the largest are 127
    for (int8_t& v : w) v = int8_t(std::clamp(std::lround(normal(random)), -127L, 127L));
    bias.resize(size_t(a.out_c) + kChannelPad);
    scale.resize(size_t(a.out_c) + kChannelPad);
    for (int32_t& v : bias) v = int32_t(random() % 20000) - 10000;
    for (float& v : scale) v = 64.0f / (34 * 74 * std::sqrt(float(a.depth())));
    a.w = w.data();
    a.epilogue = {};
    a.epilogue.bias = bias.data(), a.epilogue.scale = scale.data();
    a.epilogue.y_max = 255;  // and a zero point of 0, as after ReLU
    if (s.adds == 0) return;
    a.residual_pitch = a.out_c;
    a.epilogue.has_residual = true;
    a.epilogue.sum_max = 255;
    a.epilogue.y_ratio = 0.5f, a.epilogue.residual_ratio = 0.4f;
  }

  void prepare(const ConvVariant& variant, Weights& weights) {
    packed = weights.take(variant.packed_bytes(args));
    variant.pack(args, packed);
  }

  size_t x_bytes() const { return size_t(args.in_h) * size_t(args.in_w) * size_t(args.in_c); }
  size_t y_bytes() const { return size_t(args.pixels()) * size_t(args.out_c); }

  void run(const ConvVariant& variant) {
    const uint8_t* residual = args.epilogue.has_residual ? y : nullptr;
    const ConvCall call{&args, packed, x, residual, y, scratch, nullptr};
    variant.run(call, 0, variant.units(args));
  }

  double macs() const { return double(args.pixels()) * args.out_c * args.depth(); }
};

std::vector<uint8_t> result(Case& c, const ConvVariant& variant) {
  Memory y(c.y_bytes()), scratch(variant.scratch_bytes(c.args));
  c.y = y.data(), c.scratch = scratch.data();
  Weights weights(0);
  c.prepare(variant, weights);
  c.run(variant);
  return {y.data(), y.data() + y.size()};
}

void fill(Memory& memory) {
  std::mt19937 random(2);
  for (size_t i = 0; i < memory.size(); ++i) memory.data()[i] = uint8_t(random());
}

bool equals_definition(const Shape& shape, const ConvVariant& variant) {
  Case c(shape);
  Memory x(c.x_bytes());
  fill(x);
  c.x = x.data();
  return result(c, conv_any_1x1__scalar) == result(c, variant);
}

// A layer of a network: what dispatch chose for it, and the least time it took.
struct Layer {
  Case data;
  const ConvVariant* variant;
  double best = 1e9;

  Layer(const Shape& shape, const ConvVariant* wanted) : data(shape) {
    variant = wanted != nullptr ? wanted : &select_conv(data.args, Isa::kAmx);
  }

  bool runs() const {
    return supports(variant->isa) && variant->available() && variant->supports(data.args);
  }

  void time() {
    const double begin = now();
    data.run(*variant);
    best = std::min(best, now() - begin);
  }
};

struct Options {
  const ConvVariant* wanted = nullptr;
  double seconds = 1;
  int repeat = 1;  // of a layer before the next: more, and its weights stay in the cache
  bool check = false;
};

const ConvVariant* find(const char* name) {
  for (int i = 0; i < n_conv_variants(); ++i) {
    if (same_name(conv_variants()[i]->name, name)) return conv_variants()[i];
  }
  std::fprintf(stderr, "no variant %s\n", name);
  std::exit(2);
}

// One line for all layers of a shape.
struct Row {
  Shape shape;
  const Layer* layer;
  int times;
  double seconds;
};

// 1e9 MACs per second at most with the instruction that a variant is named after, 0 where unknown.
double peak_of(const char* variant) {
  const char* suffix = std::strstr(variant, "__");
  for (int i = 0; suffix != nullptr && i < n_peaks(); ++i) {
    if (same_name(suffix + 2, peak(i).kernel)) return measure_peak(peak(i), 0.05);
  }
  return 0;
}

void print(const Row& row, double peak_gmacs) {
  const Shape& s = row.shape;
  const double seconds = row.seconds / row.times, rate = row.layer->data.macs() / seconds / 1e9;
  std::printf(
      "{\"bench\": \"kernels\", \"layers\": %d, \"x\": [%d, %d, %d], \"out_channels\": %d, "
      "\"kernel\": %d, \"stride\": %d, \"groups\": %d, \"adds\": %d, \"variant\": \"%s\", "
      "\"ms\": %.4f, \"gmacs\": %.1f, \"of_peak\": %.3f, \"estimated\": %.2f}\n",
      row.times, s.in_h, s.in_w, s.in_c, s.out_c, s.kernel, s.stride, s.groups, s.adds,
      row.layer->variant->name, seconds * 1e3, rate, peak_gmacs > 0 ? rate / peak_gmacs : 0,
      row.layer->variant->cycles(row.layer->data.args) / kClock / seconds);
}

// Layers take turns in two buffers, as tensors in an arena do.
struct Arena {
  Memory buffers[2], scratch;

  template <typename Layers>
  explicit Arena(Layers& layers) {
    size_t activation_bytes = 0, scratch_bytes = 0;
    for (auto& [shape, layer] : layers) {
      const Case& c = layer->data;
      activation_bytes = std::max({activation_bytes, c.x_bytes(), c.y_bytes()});
      scratch_bytes = std::max(scratch_bytes, layer->variant->scratch_bytes(c.args));
    }
    scratch = Memory(scratch_bytes);
    for (Memory& buffer : buffers) {
      buffer = Memory(activation_bytes);
      fill(buffer);
    }
    for (size_t i = 0; i < layers.size(); ++i) {
      Case& c = layers[i].second->data;
      c.x = buffers[i % 2].data(), c.y = buffers[(i + 1) % 2].data(), c.scratch = scratch.data();
    }
  }
};

// All layers one after the other, again and again, so that weights come from where they would.
void bench(const char* path, const Options& options) {
  std::vector<std::pair<Shape, std::unique_ptr<Layer>>> layers;
  Weights weights(size_t{64} << 20);
  for (const Shape& shape : read_shapes(path)) {
    auto layer = std::make_unique<Layer>(shape, options.wanted);
    if (!layer->runs()) continue;
    if (options.check && !equals_definition(shape, *layer->variant)) {
      std::fprintf(stderr, "%s is wrong\n", layer->variant->name);
      std::exit(1);
    }
    layer->data.prepare(*layer->variant, weights);
    layers.emplace_back(shape, std::move(layer));
  }
  std::map<std::string, double> peak_gmacs;
  for (auto& [shape, layer] : layers) {
    const char* name = layer->variant->name;
    if (peak_gmacs.count(name) == 0) peak_gmacs[name] = peak_of(name);
  }
  const Arena arena(layers);
  for (double start = now(); now() - start < options.seconds;) {
    for (auto& [shape, layer] : layers) {
      for (int i = 0; i < options.repeat; ++i) layer->time();
    }
  }
  double seconds = 0, macs = 0;
  std::vector<Row> rows;
  for (auto& [shape, layer] : layers) {
    seconds += layer->best;
    macs += layer->data.macs();
    const auto same = [&](const Row& r) {
      return std::memcmp(&r.shape, &shape, sizeof(shape)) == 0;
    };
    const auto row = std::find_if(rows.begin(), rows.end(), same);
    if (row == rows.end()) {
      rows.push_back({shape, layer.get(), 1, layer->best});
    } else {
      ++row->times;
      row->seconds += layer->best;
    }
  }
  for (const Row& row : rows) print(row, peak_gmacs.at(row.layer->variant->name));
  std::printf("{\"bench\": \"kernels\", \"network\": \"%s\", \"ms\": %.3f, \"gmacs\": %.1f}\n",
              path, seconds * 1e3, macs / seconds / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (same_name(argv[i], "--variant")) {
      options.wanted = find(argv[++i]);
    } else if (same_name(argv[i], "--seconds")) {
      options.seconds = std::atof(argv[++i]);
    } else if (same_name(argv[i], "--repeat")) {
      options.repeat = std::atoi(argv[++i]);
    } else if (same_name(argv[i], "--check")) {
      options.check = true;
    } else {
      bench(argv[i], options);
    }
  }
}
