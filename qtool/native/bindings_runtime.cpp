// qtool.runtime.native's view of a Session: numpy arrays in, numpy arrays out.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/memory.h"
#include "runtime/session.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using qtool::DType;
using qtool::Session;
using qtool::Tensor;
using Fed = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

nb::dlpack::dtype dtype_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return nb::dtype<float>();
    case DType::kUint8:
      return nb::dtype<uint8_t>();
    case DType::kInt8:
      return nb::dtype<int8_t>();
    case DType::kInt32:
      return nb::dtype<int32_t>();
    case DType::kInt64:
      return nb::dtype<int64_t>();
    case DType::kUint16:
      return nb::dtype<uint16_t>();
    case DType::kInt16:
      return nb::dtype<int16_t>();
    case DType::kBool:
      return nb::dtype<bool>();
    case DType::kFloat64:
      return nb::dtype<double>();
  }
  return nb::dtype<float>();
}

bool fits(const Fed& array, const Tensor& tensor) {
  if (array.dtype() != dtype_of(tensor.dtype) || array.ndim() != size_t(tensor.rank)) return false;
  for (int i = 0; i < tensor.rank; ++i) {
    if (int64_t(array.shape(size_t(i))) != tensor.dims[i]) return false;
  }
  return reinterpret_cast<uintptr_t>(array.data()) % qtool::item_bytes(tensor.dtype) == 0;
}

// Asks Python for the array that holds a constant: constants(offset) -> where it begins, uint8.
class PythonConstants final : public qtool::ConstantSource {
 public:
  explicit PythonConstants(nb::callable constants) : constants_(std::move(constants)) {}

  const uint8_t* at(int64_t offset, int64_t n_bytes) override {
    const auto found = nb::cast<std::tuple<int64_t, Bytes>>(constants_(offset));
    const Bytes& array = std::get<1>(found);
    const int64_t skipped = offset - std::get<0>(found);
    if (skipped < 0 || n_bytes > int64_t(array.size()) - skipped) {
      throw qtool::ProgramError("a constant is shorter than its tensor");
    }
    held_.push_back(array);
    return array.data() + skipped;
  }

  void release() noexcept override { held_.clear(); }

 private:
  using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

  nb::callable constants_;
  std::vector<Bytes> held_;
};

void init(Session* self, const nb::bytes& program, const nb::object& constants, int threads,
          const std::string& isa) {
  // The bytes of a Python object may lie anywhere; a Program wants them aligned.
  const auto* bytes = static_cast<const uint8_t*>(program.data());
  const qtool::Isa most = qtool::isa_named(isa.c_str());
  std::optional<PythonConstants> source;
  if (!constants.is_none()) source.emplace(nb::cast<nb::callable>(constants));
  qtool::ConstantSource* const from = source ? &*source : nullptr;
  if (reinterpret_cast<uintptr_t>(bytes) % 8 == 0) {
    new (self) Session(bytes, program.size(), most, threads, from);
    return;
  }
  qtool::Memory copy(program.size());
  std::memcpy(copy.data(), bytes, program.size());
  new (self) Session(copy.data(), program.size(), most, threads, from);
}

nb::object empty(const Tensor& tensor, void** data) {
  auto* values = new uint8_t[size_t(tensor.bytes)];
  *data = values;
  nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
  size_t shape[qtool::kMaxRank];
  for (int i = 0; i < tensor.rank; ++i) shape[i] = size_t(tensor.dims[i]);
  return nb::cast(nb::ndarray<nb::numpy>(values, size_t(tensor.rank), shape, owner, nullptr,
                                         dtype_of(tensor.dtype)));
}

// The outputs, or None when an array does not fit its input.
nb::object run(Session& session, const std::vector<Fed>& arrays, double* op_seconds, int times) {
  const auto &ins = session.inputs(), &outs = session.outputs();
  if (arrays.size() != ins.size()) return nb::none();
  std::vector<const void*> inputs(ins.size());
  for (size_t i = 0; i < ins.size(); ++i) {
    if (!fits(arrays[i], ins[i])) return nb::none();
    inputs[i] = arrays[i].data();
  }
  std::vector<void*> outputs(outs.size());
  nb::list made;
  for (size_t i = 0; i < outs.size(); ++i) made.append(empty(outs[i], &outputs[i]));
  {
    const nb::gil_scoped_release unlocked;
    for (int i = 0; i < times; ++i) session.run(inputs.data(), outputs.data(), op_seconds);
  }
  return made;
}

nb::object profile(Session& session, const std::vector<Fed>& arrays, int times) {
  std::vector<double> seconds(session.ops().size());
  const nb::object outputs = run(session, arrays, seconds.data(), times);
  if (outputs.is_none()) return outputs;
  nb::list found;
  const auto ops = session.ops();
  for (size_t i = 0; i < ops.size(); ++i) {
    found.append(nb::make_tuple(ops[i].name, ops[i].kernel, 1e3 * seconds[i] / times));
  }
  return found;
}

}  // namespace

void bind_runtime(nb::module_& module) {
  // noconvert is not needed: a vector of untyped arrays converts nothing.
  nb::class_<Session>(module, "Session")
      .def("__init__", &init, "program"_a, "constants"_a.none(), "threads"_a, "isa"_a)
      .def(
          "run",
          [](Session& self, const std::vector<Fed>& inputs) {
            return run(self, inputs, nullptr, 1);
          },
          "inputs"_a)
      .def("profile", &profile, "inputs"_a, "times"_a)
      .def_prop_ro("packed_bytes", &Session::packed_bytes)
      .def_prop_ro("context_bytes", &Session::context_bytes);
}
