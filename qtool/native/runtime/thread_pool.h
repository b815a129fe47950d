// A few threads that live as long as their session and share its loops.
//
// A loop is cut into chunks, the same ones whatever happens. The caller takes them from the front,
// workers from the back, until none is left: so each thread keeps to its end of the tensors, and
// chunks that a worker has not begun, because it sleeps or the machine is busy with something
// else, cost the caller no waiting. No sum is split: results do not depend on who does what.
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

  // Between these two, workers stay awake for loops. Without them, splits find them asleep.
  void begin() noexcept;
  void end() noexcept;

  // Calls body(begin, end, thread) for chunks of 0 .. n - 1 that are at least grain items, and
  // returns when all have returned. One caller at a time. A grain should take some microseconds.
  template <typename Body>
  void split(int64_t n, int64_t grain, const Body& body) noexcept {
    const int64_t most = grain > 1 ? n / grain : n;
    if (threads_ == 1 || most < 2) {
      body(int64_t{0}, n, 0);
      return;
    }
    const int64_t chunks = int64_t{threads_} * kChunksOfThread;
    share(
        n, int(most < chunks ? most : chunks),
        [](const void* f, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Body*>(f))(begin, end, thread);
        },
        &body);
  }

 private:
  static constexpr int kChunksOfThread = 16;  // 2^16 at most in all

  void share(int64_t n, int chunks, Part part, const void* body) noexcept;
  int run_some(bool front, int thread) noexcept;
  uint32_t share_of(uint32_t n_open) const noexcept;
  void work(int thread) noexcept;
  bool await() noexcept;
  void wake() noexcept;
  void sleep() noexcept;

  const int threads_;
  std::vector<std::thread> workers_;

  // Of the loop that is under way; published by open_. Fixed while any chunk is open or running.
  int64_t n_ = 0;
  std::atomic<uint32_t> chunks_{0};
  Part part_ = nullptr;
  const void* body_ = nullptr;

  // Chunks that nobody has taken: first << 16 | end.
  static uint32_t n_open(uint32_t open) noexcept { return (open & 0xffff) - (open >> 16); }
  alignas(64) std::atomic<uint32_t> open_{0};
  alignas(64) std::atomic<int> finished_{0};  // chunks, by workers
  alignas(64) std::atomic<bool> busy_{false}, stop_{false};
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  uint64_t n_wakes_ = 0;  // under mutex_
};

}  // namespace qtool
