// A Program made ready to run: ops with packed weights, and memory for each call under way.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "runtime/memory.h"
#include "runtime/op.h"

namespace qtool {

class Session {
 public:
  // Reads the program's bytes and keeps none of them, nor constants of the source, when they come
  // from one. Kernels use at most isa and this processor; throws ProgramError when the program is
  // wrong.
  Session(const uint8_t* bytes, size_t n_bytes, Isa isa, int threads,
          ConstantSource* source = nullptr);

  int threads() const noexcept { return pool_.threads(); }
  const std::vector<Tensor>& inputs() const noexcept { return inputs_; }
  const std::vector<Tensor>& outputs() const noexcept { return outputs_; }

  // Runs all ops. inputs[i] holds inputs()[i].bytes bytes, and so on, aligned to their elements.
  // Any number of threads may call; the first to come has the session's threads, the others
  // their own. op_seconds, when not null, gets the time of each op added.
  // Throws std::bad_alloc when there is no memory for one more call at a time.
  void run(const void* const* inputs, void* const* outputs, double* op_seconds = nullptr);

  struct OpInfo {
    const char *name, *kernel;
  };
  std::vector<OpInfo> ops() const;

  size_t packed_bytes() const noexcept;   // weights as the kernels want them, and constants
  size_t context_bytes() const noexcept;  // memory that each call under way takes

 private:
  struct Context {
    Memory memory;
    std::vector<uint8_t*> pointers;
    uint8_t* scratch;
    Pool alone{1};
  };

  void keep_constants(const Program& program, const std::vector<char>& kept);
  std::unique_ptr<Context> take();
  void give_back(std::unique_ptr<Context> context);
  void run_ops(const Context& context, Pool& pool, double* op_seconds) const noexcept;

  std::vector<Tensor> inputs_, outputs_;
  std::vector<Tensor> fed_;           // every tensor that lies in an input or output of the model
  std::unique_ptr<Weights> weights_;  // of ops_
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<uint16_t> opcodes_;
  std::vector<int64_t> offsets_;  // of each tensor in the arena, or in constants_
  std::vector<Kind> kinds_;
  Memory constants_;
  size_t arena_bytes_, scratch_pitch_ = 0;
  double cycles_ = 0;  // of a run on one thread, an estimate

  Pool pool_;
  std::mutex pool_mutex_, contexts_mutex_;
  std::vector<std::unique_ptr<Context>> contexts_;  // that no call is using
};

}  // namespace qtool
