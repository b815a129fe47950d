// An op of a Program, and what one is made from.
//
// Each op has one function `make_<op>(view)` in ops/ that checks the record, throws ProgramError
// when something is wrong, and prepares: packs weights, builds tables. After that run() cannot
// fail and does not allocate. Adding an op: one such function and one line in ops.inc.
#pragma once

#include <memory>
#include <vector>

#include "isa.h"
#include "runtime/program.h"
#include "runtime/thread_pool.h"
#include "runtime/weights.h"

namespace qtool {

// What run() works on: the memory of one call.
struct Run {
  uint8_t* const* pointers;  // by tensor id
  Pool* pool;
  uint8_t* scratch;  // scratch_bytes() of the op for each thread, at multiples of scratch_pitch
  size_t scratch_pitch;

  template <typename T>
  T* at(int32_t id) const noexcept {
    return reinterpret_cast<T*>(pointers[id]);
  }
};

class Op {
 public:
  virtual ~Op() = default;
  virtual void run(const Run& run) const noexcept = 0;

  // Which of its kernels the op has chosen, such as conv_1x1_6x64__avx512vnni.
  virtual const char* kernel() const noexcept { return "scalar"; }

  // Bytes of scratch memory that each thread needs.
  virtual size_t scratch_bytes() const noexcept { return 0; }

  virtual size_t packed_bytes() const noexcept { return 0; }

  // An estimate of what run() takes on one thread, 0 where nothing better is known than the bytes
  // that it touches.
  virtual double cycles() const noexcept { return 0; }
};

// One record while its op is made.
class OpView {
 public:
  OpView(const Program& program, const OpRecord& record, Isa isa, int threads, Weights& weights)
      : isa(isa), threads(threads), weights(weights), program_(program), record_(record) {
    consumed_.resize(record.inputs.size());
  }

  const Isa isa;  // the most that its kernels may use
  const int threads;
  Weights& weights;  // as long as the op is

  // Checks how many of each the record has; inputs and outputs may be absent (-1) all the same.
  void counts(size_t n_inputs, size_t n_outputs, size_t n_ints, size_t n_floats) const;
  void require(bool condition, const char* message) const;

  size_t n_inputs() const noexcept { return record_.inputs.size(); }
  size_t n_outputs() const noexcept { return record_.outputs.size(); }
  size_t n_ints() const noexcept { return record_.ints.size(); }

  // An operand that must be there.
  const Tensor& input(size_t i) const;
  const Tensor& output(size_t i) const;
  bool has_input(size_t i) const noexcept { return record_.inputs[i] >= 0; }

  // The values of an input that must be a contiguous constant of this type; valid while the op is
  // made, after which run() must not read it.
  template <typename T>
  const T* constant(size_t i, DType dtype, int64_t size) const {
    return reinterpret_cast<const T*>(constant_bytes(i, dtype, size));
  }

  int64_t integer(size_t i, int64_t low, int64_t high) const;
  float finite(size_t i) const;    // a float that is neither infinite nor NaN
  float positive(size_t i) const;  // and above 0
  float any_float(size_t i) const { return record_.floats[i]; }

  // Sets kept[id] for each constant that nobody took by constant().
  void mark_constants_read_by_run(std::vector<char>& kept) const;

 private:
  const uint8_t* constant_bytes(size_t i, DType dtype, int64_t size) const;
  const Tensor& tensor(const std::vector<int32_t>& ids, size_t i) const;

  const Program& program_;
  const OpRecord& record_;
  mutable std::vector<char> consumed_;
};

// Makes the op of a record. Throws ProgramError.
std::unique_ptr<Op> make_op(uint16_t opcode, const OpView& view);

// The name of an opcode, nullptr when there is none.
const char* op_name(uint16_t opcode) noexcept;

}  // namespace qtool
