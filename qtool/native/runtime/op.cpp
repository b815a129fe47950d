#include "runtime/op.h"

#include <cmath>

namespace qtool {

#define QTOOL_OP(id, name, make) std::unique_ptr<Op> make(const OpView&);
#include "runtime/ops.inc"
#undef QTOOL_OP

std::unique_ptr<Op> make_op(uint16_t opcode, const OpView& view) {
  switch (opcode) {
#define QTOOL_OP(id, name, make) \
  case id:                       \
    return make(view);
#include "runtime/ops.inc"
#undef QTOOL_OP
  }
  throw ProgramError("no such opcode");
}

const char* op_name(uint16_t opcode) noexcept {
  switch (opcode) {
#define QTOOL_OP(id, name, make) \
  case id:                       \
    return #name;
#include "runtime/ops.inc"
#undef QTOOL_OP
  }
  return nullptr;
}

void OpView::require(bool condition, const char* message) const {
  if (!condition) throw ProgramError(message);
}

void OpView::counts(size_t n_inputs, size_t n_outputs, size_t n_ints, size_t n_floats) const {
  require(record_.inputs.size() == n_inputs && record_.outputs.size() == n_outputs,
          "wrong number of inputs or outputs");
  require(record_.ints.size() == n_ints && record_.floats.size() == n_floats,
          "wrong number of parameters");
}

const Tensor& OpView::tensor(const std::vector<int32_t>& ids, size_t i) const {
  require(i < ids.size() && ids[i] >= 0, "an operand is missing");
  return program_.tensors[size_t(ids[i])];
}

const Tensor& OpView::input(size_t i) const { return tensor(record_.inputs, i); }

const Tensor& OpView::output(size_t i) const {
  const Tensor& found = tensor(record_.outputs, i);
  require(found.kind == Kind::kArena || found.kind == Kind::kOutput,
          "a constant or an input of the model is written");
  return found;
}

const uint8_t* OpView::constant_bytes(size_t i, DType dtype, int64_t size) const {
  const Tensor& found = input(i);
  require(found.kind == Kind::kConstant, "an operand is not constant");
  require(found.dtype == dtype && found.size() == size && found.contiguous(),
          "a constant has another type or size");
  consumed_[i] = 1;
  return program_.constant(found);
}

void OpView::mark_constants_read_by_run(std::vector<char>& kept) const {
  for (size_t i = 0; i < record_.inputs.size(); ++i) {
    const int32_t id = record_.inputs[i];
    if (id < 0 || consumed_[i]) continue;
    if (program_.tensors[size_t(id)].kind == Kind::kConstant) kept[size_t(id)] = 1;
  }
}

int64_t OpView::integer(size_t i, int64_t low, int64_t high) const {
  require(i < record_.ints.size(), "a parameter is missing");
  require(record_.ints[i] >= low && record_.ints[i] <= high, "a parameter is out of range");
  return record_.ints[i];
}

float OpView::finite(size_t i) const {
  require(i < record_.floats.size(), "a parameter is missing");
  require(std::isfinite(record_.floats[i]), "a parameter is not finite");
  return record_.floats[i];
}

float OpView::positive(size_t i) const {
  const float value = finite(i);
  require(value > 0, "a parameter is not positive");
  return value;
}

}  // namespace qtool
