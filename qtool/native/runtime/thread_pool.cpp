#include "runtime/thread_pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qtool {
namespace {

using Clock = std::chrono::steady_clock;

// How long a worker waits for the next loop: polling at first, then letting others run, then
// asleep. While a run is under way, the next loop is near; after one, the next run may be.
constexpr auto kPolls = std::chrono::microseconds(20);
constexpr auto kAwakeAfterRun = std::chrono::microseconds(60);
constexpr auto kAwakeInRun = std::chrono::milliseconds(2);

void pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a little, longer as time goes by.
class Patience {
 public:
  void wait() noexcept {
    for (int i = 0; i < 8; ++i) pause();
    if (++turns_ % 4 != 0) return;
    waited_ = Clock::now() - begin_;
    if (waited_ > kPolls) std::this_thread::yield();
  }

  Clock::duration waited() const noexcept { return waited_; }

 private:
  const Clock::time_point begin_ = Clock::now();
  Clock::duration waited_{};
  unsigned turns_ = 0;
};

}  // namespace

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
  stop_.store(true);
  wake();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::begin() noexcept {
  busy_.store(true, std::memory_order_relaxed);
  if (asleep_.load(std::memory_order_relaxed) > 0) wake();
}

void Pool::wake() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++n_wakes_;
  }
  wake_.notify_all();
}

void Pool::end() noexcept { busy_.store(false, std::memory_order_relaxed); }

// Takes chunks that are open and runs them. That there are some is all that the exchange must find:
// they cannot be of a loop before, for all of its chunks were taken. Returns how many.
int Pool::run_some(bool front, int thread) noexcept {
  uint32_t open = open_.load(std::memory_order_acquire);
  while (n_open(open) > 0) {
    const uint32_t first = open >> 16, end = open & 0xffff, n = share_of(n_open(open));
    const uint32_t left = front ? (first + n) << 16 | end : first << 16 | (end - n);
    if (!open_.compare_exchange_weak(open, left, std::memory_order_acq_rel)) continue;
    const int64_t chunk = front ? first : end - n, all = chunks_.load(std::memory_order_relaxed);
    part_(body_, n_ * chunk / all, n_ * (chunk + n) / all, thread);
    return int(n);
  }
  return 0;
}

// Most of a thread's part at once, so that it works on neighbours; the rest one by one, for whoever
// is free.
uint32_t Pool::share_of(uint32_t n_open) const noexcept {
  const uint32_t n = chunks_.load(std::memory_order_relaxed);
  const uint32_t rest = n / 4, most = (n - rest) / uint32_t(threads_);
  if (n_open <= rest || most < 2) return 1;
  return n_open - rest < most ? n_open - rest : most;
}

void Pool::share(int64_t n, int chunks, Part part, const void* body) noexcept {
  n_ = n;
  chunks_.store(uint32_t(chunks), std::memory_order_relaxed);
  part_ = part;
  body_ = body;
  finished_.store(0, std::memory_order_relaxed);
  open_.store(uint32_t(chunks), std::memory_order_release);
  int own = 0;
  while (const int n = run_some(true, 0)) own += n;
  for (Patience patience; finished_.load(std::memory_order_acquire) < chunks - own;) {
    patience.wait();
  }
}

void Pool::work(int thread) noexcept {
  while (!stop_.load(std::memory_order_relaxed)) {
    if (const int n = run_some(false, thread)) {
      finished_.fetch_add(n, std::memory_order_release);
    } else if (!await()) {
      sleep();
    }
  }
}

// Whether there is something to do before patience ends.
bool Pool::await() noexcept {
  for (Patience patience;;) {
    if (n_open(open_.load(std::memory_order_relaxed)) > 0 || stop_.load(std::memory_order_relaxed))
      return true;
    const bool busy = busy_.load(std::memory_order_relaxed);
    if (patience.waited() > (busy ? Clock::duration(kAwakeInRun) : kAwakeAfterRun)) return false;
    patience.wait();
  }
}

// Until the next run begins. One that has just begun may go on without this worker.
void Pool::sleep() noexcept {
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t before = n_wakes_;
  asleep_.fetch_add(1, std::memory_order_relaxed);
  wake_.wait(lock, [&] { return n_wakes_ != before || stop_.load(); });
  asleep_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace qtool
