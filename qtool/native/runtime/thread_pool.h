// A few threads that live as long as their session and split loops evenly.
//
// Work is cut into one contiguous part per thread, the same for any run, so results do not
// depend on timing. Between loops a worker spins for some microseconds, then sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace qtool {

class Pool {
 public:
  // A part of a loop: the items begin .. end - 1, on thread 0 .. threads() - 1.
  using Part = void (*)(const void* body, int64_t begin, int64_t end, int thread);

  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const noexcept { return threads_; }

  // Calls body(begin, end, thread) for parts of 0 .. n - 1 that are at least grain items, and
  // returns when all have returned. One caller at a time.
  template <typename Body>
  void split(int64_t n, int64_t grain, const Body& body) noexcept {
    const int64_t most = grain > 0 ? n / grain : n;
    if (threads_ == 1 || most < 2) {
      body(int64_t{0}, n, 0);
      return;
    }
    start(
        n, int(most < threads_ ? most : threads_),
        [](const void* f, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Body*>(f))(begin, end, thread);
        },
        &body);
  }

 private:
  void start(int64_t n, int parts, Part part, const void* body) noexcept;
  void work(int thread) noexcept;
  void run_part(int thread) noexcept;

  const int threads_;
  std::vector<std::thread> workers_;

  // Of the loop that is under way; published by generation_.
  int64_t n_ = 0;
  int parts_ = 0;
  Part part_ = nullptr;
  const void* body_ = nullptr;

  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<int> asleep_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace qtool
