// Several threads call one session that has threads of its own; built with ThreadSanitizer:
//
//     cmake -S qtool/native -B build/tsan -DCMAKE_CXX_FLAGS=-fsanitize=thread && cmake --build
//         build/tsan --target stress_threads && build/tsan/stress_threads program...
//
// Exit code 1 when a result differs from that of a single thread.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "qtool/qtool.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr int kCallers = 4, kRuns = 50, kThreads = 3;

struct Call {
  std::vector<Bytes> inputs, outputs;

  explicit Call(const qtool_session* session) {
    for (int i = 0; i < qtool_n_inputs(session); ++i) {
      inputs.emplace_back(qtool_input(session, i)->n_bytes);
    }
    for (int i = 0; i < qtool_n_outputs(session); ++i) {
      outputs.emplace_back(qtool_output(session, i)->n_bytes);
    }
    for (Bytes& bytes : inputs) {  // floats in 1 .. 2
      for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = i % 4 == 3 ? 0x3f : uint8_t(i * 37 | 0x80);
      }
    }
  }

  bool run(qtool_session* session) {
    std::vector<const void*> in;
    std::vector<void*> out;
    for (const Bytes& bytes : inputs) in.push_back(bytes.data());
    for (Bytes& bytes : outputs) out.push_back(bytes.data());
    return qtool_run(session, in.data(), out.data()) == 0;
  }
};

int stress(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const Bytes program{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  char error[256] = "";
  const qtool_options alone{1, nullptr}, several{kThreads, nullptr};
  qtool_session* one = qtool_open(program.data(), program.size(), &alone, error, sizeof error);
  qtool_session* all = qtool_open(program.data(), program.size(), &several, error, sizeof error);
  if (one == nullptr || all == nullptr) {
    std::fprintf(stderr, "%s: %s\n", path, error);
    return 1;
  }
  Call expected(one);
  expected.run(one);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([&] {
      Call call(all);
      for (int k = 0; k < kRuns; ++k) {
        if (!call.run(all) || call.outputs != expected.outputs) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  qtool_close(one);
  qtool_close(all);
  std::printf("%s: %d of %d runs differ\n", path, wrong.load(), kCallers * kRuns);
  return wrong.load() > 0;
}

}  // namespace

int main(int argc, char** argv) {
  int failed = 0;
  for (int i = 1; i < argc; ++i) failed |= stress(argv[i]);
  return failed;
}
