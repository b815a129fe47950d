// Several threads call one session that has threads of its own, then all sessions at once; built
// with ThreadSanitizer:
//
//     cmake -S qtool/native -B build/tsan -DQTOOL_PYTHON=OFF -DCMAKE_CXX_FLAGS=-fsanitize=thread &&
//         cmake --build build/tsan --target stress_threads && build/tsan/stress_threads program...
//
// Exit code 1 when a result differs from that of a single thread.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <thread>
#include <vector>

#include "qtool/qtool.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr int kCallers = 4, kRuns = 30, kMixedRuns = 5, kThreads = 3;

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

// A Program in a session with threads of its own, and what it makes with none.
struct Stressed {
  const char* path;
  qtool_session* session;
  std::vector<Bytes> expected;
  std::atomic<int> wrong{0};

  explicit Stressed(const char* path) : path(path) {
    std::ifstream file(path, std::ios::binary);
    const Bytes program{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    char error[256] = "";
    const qtool_options alone{1, nullptr}, several{kThreads, nullptr};
    qtool_session* one = qtool_open(program.data(), program.size(), &alone, error, sizeof error);
    session = qtool_open(program.data(), program.size(), &several, error, sizeof error);
    if (one == nullptr || session == nullptr) {
      std::fprintf(stderr, "%s: %s\n", path, error);
      std::exit(1);
    }
    Call call(one);
    call.run(one);
    expected = call.outputs;
    qtool_close(one);
  }

  ~Stressed() { qtool_close(session); }

  void run(int times) {
    Call call(session);
    for (int k = 0; k < times; ++k) {
      if (!call.run(session) || call.outputs != expected) ++wrong;
    }
  }
};

template <typename Work>
void from_callers(const Work& work) {
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) callers.emplace_back([&work, i] { work(i); });
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::unique_ptr<Stressed>> sessions;
  for (int i = 1; i < argc; ++i) sessions.push_back(std::make_unique<Stressed>(argv[i]));
  for (auto& each : sessions) {  // several callers of one session
    from_callers([&](int) { each->run(kRuns); });
  }
  from_callers([&](int caller) {  // and of all, each in an order of its own
    for (size_t i = 0; i < sessions.size(); ++i) {
      sessions[(i * 7 + size_t(caller)) % sessions.size()]->run(kMixedRuns);
    }
  });
  int failed = 0;
  for (auto& each : sessions) {
    const int wrong = each->wrong.load();
    std::printf("%s: %d of %d runs differ\n", each->path, wrong, kCallers * (kRuns + kMixedRuns));
    failed |= wrong > 0;
  }
  return failed;
}
