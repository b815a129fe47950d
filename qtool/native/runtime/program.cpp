#include "runtime/program.h"

#include <algorithm>
#include <cstring>

namespace qtool {
namespace {

constexpr char kMagic[8] = {'Q', 'T', 'P', 'R', 'O', 'G', 0, 1};
constexpr int64_t kMost = int64_t{1} << 40;  // bytes or elements: products of two cannot overflow
constexpr size_t kHeaderBytes = 128, kTensorBytes = 64;

struct Header {
  char magic[8];
  uint32_t version, n_tensors, n_ops, n_inputs, n_outputs, reserved;
  uint64_t tensors_offset, ops_offset, ops_bytes, constants_offset, constants_bytes, arena_bytes,
      io_offset;
};

struct TensorRecord {
  uint8_t dtype, rank, kind, reserved;
  int32_t pitch, dims[kMaxRank];
  uint64_t offset, bytes;
};

struct OpHead {
  uint16_t opcode;
  uint8_t n_inputs, n_outputs;
  uint16_t n_ints, n_floats;
};

[[noreturn]] void fail(const std::string& message) { throw ProgramError(message); }

void check(bool condition, const char* message) {
  if (!condition) fail(message);
}

// A part of the bytes that is read from its start on.
class Section {
 public:
  Section(const uint8_t* bytes, size_t n_bytes, uint64_t offset, uint64_t size, const char* name)
      : name_(name) {
    if (offset > n_bytes || size > n_bytes - offset || offset % 8 != 0) {
      fail(std::string("the ") + name + " lie outside the program");
    }
    at_ = bytes + offset;
    left_ = size;
  }

  const uint8_t* take(size_t n_bytes) {
    if (n_bytes > left_) fail(std::string("the ") + name_ + " end too early");
    const uint8_t* taken = at_;
    at_ += n_bytes;
    left_ -= n_bytes;
    return taken;
  }

  template <typename T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  template <typename T>
  std::vector<T> read(size_t n) {
    const uint8_t* from = take(n * sizeof(T));  // n < 2^32: no overflow
    std::vector<T> values(n);
    if (n > 0) std::memcpy(values.data(), from, n * sizeof(T));
    return values;
  }

 private:
  const char* name_;
  const uint8_t* at_;
  size_t left_;
};

// The limit that a tensor's offset and span must stay within.
int64_t limit(const Program& program, Kind kind) {
  return kind == Kind::kArena ? program.arena_bytes : program.constants_bytes;
}

void read_shape(const TensorRecord& record, Tensor& tensor) {
  tensor.rank = record.rank;
  tensor.rows = tensor.columns = 1;
  for (int i = 0; i < kMaxRank; ++i) {
    tensor.dims[i] = i < tensor.rank ? record.dims[i] : 1;
    check(tensor.dims[i] >= 1, "a dim is not positive");
    if (i == tensor.rank - 1) {
      tensor.columns = tensor.dims[i];
    } else {
      check(tensor.rows <= kMost / tensor.dims[i], "a tensor is too large");
      tensor.rows *= tensor.dims[i];
    }
  }
  tensor.pitch = record.pitch;
  check(tensor.pitch >= tensor.columns, "a pitch is smaller than the last dim");
  check(tensor.rows <= kMost / tensor.pitch, "a tensor is too large");
}

Tensor read_tensor(const TensorRecord& record, int32_t id, const Program& program) {
  check(record.dtype >= 1 && record.dtype <= uint8_t(DType::kFloat64), "an unknown dtype");
  check(record.rank <= kMaxRank, "a rank is above 6");
  check(record.kind <= uint8_t(Kind::kOutput), "an unknown kind of tensor");
  Tensor tensor{};
  tensor.id = id;
  tensor.dtype = DType(record.dtype);
  tensor.kind = Kind(record.kind);
  read_shape(record, tensor);
  const auto item = int64_t(item_bytes(tensor.dtype));
  tensor.bytes = ((tensor.rows - 1) * tensor.pitch + tensor.columns) * item;
  check(record.bytes == uint64_t(tensor.bytes), "a tensor's bytes do not follow from its shape");
  check(record.offset <= uint64_t(kMost), "an offset is too large");
  tensor.offset = int64_t(record.offset);
  if (tensor.kind == Kind::kArena || tensor.kind == Kind::kConstant) {
    check(tensor.offset % item == 0, "an offset is not a multiple of the element size");
    const int64_t most = limit(program, tensor.kind);
    check(tensor.offset <= most && tensor.bytes <= most - tensor.offset,
          "a tensor lies outside the arena or the constants");
  } else {
    check(tensor.contiguous(), "an input or output is not contiguous");
  }
  return tensor;
}

OpRecord read_op(Section& ops) {
  const auto head = ops.read<OpHead>();
  OpRecord op{head.opcode, {}, {}, {}, {}};
  op.inputs = ops.read<int32_t>(head.n_inputs);
  op.outputs = ops.read<int32_t>(head.n_outputs);
  ops.take((head.n_inputs + head.n_outputs) % 2 * 4);
  op.ints = ops.read<int64_t>(head.n_ints);
  op.floats = ops.read<float>(head.n_floats);
  ops.take(head.n_floats % 2 * 4);
  return op;
}

void check_ids(const std::vector<int32_t>& ids, const Program& program) {
  for (int32_t id : ids) {
    check(id >= -1 && id < int64_t(program.tensors.size()), "an op names a tensor that is not");
  }
}

// io[i] is the tensor of the model's input or output i; others of its kind are views of these.
std::vector<int32_t> read_io(Section& section, size_t n, Kind kind, const Program& program) {
  const auto io = section.read<int32_t>(n);
  for (size_t i = 0; i < n; ++i) {
    check(io[i] >= 0 && io[i] < int64_t(program.tensors.size()), "an input or output is no tensor");
    const Tensor& tensor = program.tensors[size_t(io[i])];
    check(tensor.kind == kind && tensor.offset == int64_t(i), "inputs or outputs are mixed up");
  }
  for (const Tensor& tensor : program.tensors) {
    if (tensor.kind != kind) continue;
    check(tensor.offset < int64_t(n), "a tensor is of an input or output that is not");
    const Tensor& whole = program.tensors[size_t(io[size_t(tensor.offset)])];
    check(tensor.bytes <= whole.bytes && item_bytes(tensor.dtype) <= item_bytes(whole.dtype),
          "a tensor is larger than the input or output it is part of");
  }
  return io;
}

}  // namespace

size_t item_bytes(DType dtype) noexcept {
  switch (dtype) {
    case DType::kUint8:
    case DType::kInt8:
    case DType::kBool:
      return 1;
    case DType::kUint16:
    case DType::kInt16:
      return 2;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kInt64:
    case DType::kFloat64:
      return 8;
  }
  return 8;
}

bool same_dims(const Tensor& a, const Tensor& b) noexcept {
  return a.rank == b.rank && std::equal(a.dims, a.dims + a.rank, b.dims);
}

Program parse(const uint8_t* bytes, size_t n_bytes, ConstantSource* source) {
  check(n_bytes >= kHeaderBytes, "the program is shorter than its header");
  const auto header = Section(bytes, n_bytes, 0, kHeaderBytes, "header").read<Header>();
  check(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0, "these bytes are not a program");
  check(header.version == 1, "the program is of another version");
  check(header.arena_bytes <= uint64_t(kMost), "the arena is too large");

  Program program{};
  program.arena_bytes = int64_t(header.arena_bytes);
  program.constants_bytes = int64_t(std::min<uint64_t>(header.constants_bytes, kMost));
  program.source = source;
  if (source == nullptr) {
    program.constants =
        Section(bytes, n_bytes, header.constants_offset, header.constants_bytes, "constants")
            .take(0);
  }

  Section tensors(bytes, n_bytes, header.tensors_offset, uint64_t(header.n_tensors) * kTensorBytes,
                  "tensors");
  for (uint32_t i = 0; i < header.n_tensors; ++i) {
    Section record(tensors.take(kTensorBytes), kTensorBytes, 0, kTensorBytes, "tensors");
    program.tensors.push_back(read_tensor(record.read<TensorRecord>(), int32_t(i), program));
  }
  Section ops(bytes, n_bytes, header.ops_offset, header.ops_bytes, "ops");
  for (uint32_t i = 0; i < header.n_ops; ++i) {
    program.ops.push_back(read_op(ops));
    check_ids(program.ops.back().inputs, program);
    check_ids(program.ops.back().outputs, program);
  }
  Section io(bytes, n_bytes, header.io_offset, 4 * (uint64_t(header.n_inputs) + header.n_outputs),
             "inputs and outputs");
  program.inputs = read_io(io, header.n_inputs, Kind::kInput, program);
  program.outputs = read_io(io, header.n_outputs, Kind::kOutput, program);
  return program;
}

}  // namespace qtool
