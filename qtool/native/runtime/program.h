// A Program: what the runtime executes, as bytes that are checked once. docs/kernels.md has them.
//
// parse() checks that every count, index, size and offset stays inside the bytes, the arena and
// int64, so that an op has only its own rules left to check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace qtool {

constexpr int kMaxRank = 6;
constexpr size_t kAlign = 64;   // of sections, of buffers in the arena and of constants
constexpr size_t kSlack = 256;  // bytes that kernels may read beyond the arena and the constants

enum class DType : uint8_t {
  kFloat32 = 1,
  kUint8,
  kInt8,
  kInt32,
  kInt64,
  kUint16,
  kInt16,
  kBool,
  kFloat64,
};

size_t item_bytes(DType dtype) noexcept;

enum class Kind : uint8_t { kArena, kConstant, kInput, kOutput };

// Rows of `columns` elements, `pitch` elements apart: dims flattened but for the last.
struct Tensor {
  int32_t id;
  DType dtype;
  Kind kind;
  int rank;
  int32_t dims[kMaxRank];  // all >= 1; 1 beyond rank
  int64_t rows, columns, pitch;
  int64_t offset;  // bytes into the arena or the constants; of inputs and outputs their position
  int64_t bytes;   // from the first to the last element

  int64_t size() const noexcept { return rows * columns; }
  bool contiguous() const noexcept { return rows == 1 || pitch == columns; }
};

bool same_dims(const Tensor& a, const Tensor& b) noexcept;

struct OpRecord {
  uint16_t opcode;
  std::vector<int32_t> inputs, outputs;  // tensor ids, -1 where absent
  std::vector<int64_t> ints;
  std::vector<float> floats;
};

// Where constants are that do not lie in a Program's bytes.
class ConstantSource {
 public:
  virtual ~ConstantSource() = default;

  // n_bytes from this offset into the constants on, aligned to their elements; valid until
  // release(). Throws ProgramError where there are not so many.
  virtual const uint8_t* at(int64_t offset, int64_t n_bytes) = 0;
  virtual void release() noexcept = 0;
};

struct Program {
  std::vector<Tensor> tensors;
  std::vector<OpRecord> ops;
  std::vector<int32_t> inputs, outputs;  // tensor ids
  const uint8_t* constants;              // into the bytes that were parsed, null with a source
  ConstantSource* source;
  int64_t constants_bytes, arena_bytes;

  const uint8_t* constant(const Tensor& tensor) const {
    return source != nullptr ? source->at(tensor.offset, tensor.bytes) : constants + tensor.offset;
  }
};

// What is wrong with a Program; says where.
struct ProgramError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The Program in bytes, which must be aligned to 8 and stay alive while its constants are read.
// With a source the bytes end before the constants. Throws ProgramError.
Program parse(const uint8_t* bytes, size_t n_bytes, ConstantSource* source = nullptr);

}  // namespace qtool
