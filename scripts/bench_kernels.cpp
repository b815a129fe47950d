// Times each convolution variant on the shapes of real networks, one thread.
//
//   bench_kernels [--variant NAME] [--seconds S] [--check] shapes.txt...
//
// Prints one JSON line per case: the best of the runs within S seconds (default 0.05), its GMAC/s
// and share of the peak of the variant's instruction, measured just before. Without --variant the
// one that dispatch chooses. --check compares with the scalar definition first.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "conv/conv.h"
#include "runtime/memory.h"

namespace {

using namespace qtool;

double now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

struct Shape {
  int times, in_h, in_w, in_c, out_c, kernel, stride, pad, groups;
};

std::vector<Shape> read_shapes(const char* path) {
  std::ifstream file(path);
  std::vector<Shape> shapes;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    Shape s{};
    std::istringstream(line) >> s.times >> s.in_h >> s.in_w >> s.in_c >> s.out_c >> s.kernel >>
        s.stride >> s.pad >> s.groups;
    shapes.push_back(s);
  }
  return shapes;
}

struct Case {
  ConvArgs args{};
  Memory x, y, packed, scratch;
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
    x = Memory(size_t(a.in_h) * size_t(a.in_w) * size_t(a.in_c));
    for (size_t i = 0; i < x.size(); ++i) x.data()[i] = uint8_t(random());
    y = Memory(size_t(a.pixels()) * size_t(a.out_c));
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
    a.epilogue.y_zero_point = 100, a.epilogue.y_max = 255;
  }

  void prepare(const ConvVariant& variant) {
    packed = Memory(variant.packed_bytes(args));
    variant.pack(args, packed.data());
    scratch = Memory(variant.scratch_bytes(args));
  }

  void run(const ConvVariant& variant) {
    const ConvCall call{&args, packed.data(), x.data(), nullptr, y.data(), scratch.data()};
    variant.run(call, 0, variant.units(args));
  }

  double macs() const { return double(args.pixels()) * args.out_c * args.depth(); }
};

bool equals_definition(Case& c, const ConvVariant& variant) {
  c.prepare(conv_any_1x1__scalar);
  c.run(conv_any_1x1__scalar);
  const std::vector<uint8_t> expected(c.y.data(), c.y.data() + c.y.size());
  std::memset(c.y.data(), 0, c.y.size());
  c.prepare(variant);
  c.run(variant);
  return std::memcmp(expected.data(), c.y.data(), c.y.size()) == 0;
}

double best_seconds(Case& c, const ConvVariant& variant, double seconds) {
  c.prepare(variant);
  double best = 1e9;
  for (double start = now(), end = start; end - start < seconds || best == 1e9;) {
    const double begin = now();
    c.run(variant);
    end = now();
    best = std::min(best, end - begin);
  }
  return best;
}

const ConvVariant* find(const char* name) {
  for (int i = 0; i < n_conv_variants(); ++i) {
    if (same_name(conv_variants()[i]->name, name)) return conv_variants()[i];
  }
  std::fprintf(stderr, "no variant %s\n", name);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  const ConvVariant* wanted = nullptr;
  double seconds = 0.05;
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    if (same_name(argv[i], "--variant")) {
      wanted = find(argv[++i]);
    } else if (same_name(argv[i], "--seconds")) {
      seconds = std::atof(argv[++i]);
    } else if (same_name(argv[i], "--check")) {
      check = true;
    } else {
      double total_ms = 0, total_macs = 0;
      for (const Shape& shape : read_shapes(argv[i])) {
        Case c(shape);
        const ConvVariant& v = wanted == nullptr ? select_conv(c.args, Isa::kAmx) : *wanted;
        if (!supports(v.isa) || !v.available() || !v.supports(c.args)) continue;
        if (check && !equals_definition(c, v)) {
          std::fprintf(stderr, "%s is wrong\n", v.name);
          return 1;
        }
        const double best = best_seconds(c, v, seconds);
        total_ms += best * 1e3 * shape.times;
        total_macs += c.macs() * shape.times;
        std::printf(
            "%2d x %3dx%-3d %4d -> %-4d k%d s%d g%-4d %-24s %8.4f ms %7.1f GMAC/s  est %.2f\n",
            shape.times, shape.in_h, shape.in_w, shape.in_c, shape.out_c, shape.kernel,
            shape.stride, shape.groups, v.name, best * 1e3, c.macs() / best / 1e9,
            v.cycles(c.args) / 3.5e9 / best);
      }
      std::printf("%s: %.3f ms, %.1f GMAC/s\n", argv[i], total_ms, total_macs / total_ms / 1e6);
    }
  }
}
