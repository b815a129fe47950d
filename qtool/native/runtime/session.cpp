#include "runtime/session.h"

#include <algorithm>
#include <chrono>

namespace qtool {
namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kMostExpected = size_t{256} << 20;

// Of a run on one thread: waking others takes tens of microseconds.
constexpr double kLeastCyclesToWake = 150e3;

double now() noexcept {
  using std::chrono::steady_clock;
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

double estimated_cycles(const Op& op, const Program& program, const OpRecord& record) {
  if (op.cycles() > 0) return op.cycles();
  double bytes = 0;
  for (const auto* ids : {&record.inputs, &record.outputs}) {
    for (int32_t id : *ids) bytes += id < 0 ? 0 : double(program.tensors[size_t(id)].bytes);
  }
  return 300 + bytes / 8;
}

size_t constant_bytes(const Program& program) noexcept {
  size_t total = 0;
  for (const Tensor& t : program.tensors) {
    if (t.kind == Kind::kConstant) total += aligned(size_t(t.bytes)) + kAlign;
  }
  return std::min(total, kMostExpected);  // constants may share bytes
}

int checked_threads(int threads) {
  if (threads < 1 || threads > kMostThreads) throw ProgramError("threads must be 1 to 1024");
  return threads;
}

}  // namespace

Session::Session(const uint8_t* bytes, size_t n_bytes, Isa isa, int threads, ConstantSource* source)
    : pool_(checked_threads(threads)) {
  const Program program = parse(bytes, n_bytes, source);
  arena_bytes_ = aligned(size_t(program.arena_bytes));
  weights_ = std::make_unique<Weights>(constant_bytes(program));
  std::vector<char> kept(program.tensors.size());
  size_t scratch_bytes = 0;
  for (const OpRecord& record : program.ops) {
    const OpView view(program, record, isa, pool_.threads(), *weights_);
    try {
      ops_.push_back(make_op(record.opcode, view));
    } catch (const ProgramError& error) {
      const char* name = op_name(record.opcode);
      throw ProgramError("op " + std::to_string(ops_.size()) + " (" +
                         (name == nullptr ? "unknown" : name) + "): " + error.what());
    }
    opcodes_.push_back(record.opcode);
    cycles_ += estimated_cycles(*ops_.back(), program, record);
    scratch_bytes = std::max(scratch_bytes, ops_.back()->scratch_bytes());
    view.mark_constants_read_by_run(kept);
    if (source != nullptr) source->release();
  }
  scratch_pitch_ = aligned(scratch_bytes);
  for (int32_t id : program.inputs) inputs_.push_back(program.tensors[size_t(id)]);
  for (int32_t id : program.outputs) outputs_.push_back(program.tensors[size_t(id)]);
  keep_constants(program, kept);
}

void Session::keep_constants(const Program& program, const std::vector<char>& kept) {
  size_t total = 0;
  for (const Tensor& tensor : program.tensors) {
    kinds_.push_back(tensor.kind);
    offsets_.push_back(tensor.offset);
    if (tensor.kind == Kind::kInput || tensor.kind == Kind::kOutput) fed_.push_back(tensor);
    if (tensor.kind != Kind::kConstant) continue;
    offsets_.back() = int64_t(total);
    if (kept[size_t(tensor.id)]) total += aligned(size_t(tensor.bytes));
  }
  constants_ = Memory(total);
  for (const Tensor& tensor : program.tensors) {
    if (tensor.kind != Kind::kConstant || !kept[size_t(tensor.id)]) continue;
    std::memcpy(constants_.data() + offsets_[size_t(tensor.id)], program.constant(tensor),
                size_t(tensor.bytes));
    if (program.source != nullptr) program.source->release();
  }
}

std::unique_ptr<Session::Context> Session::take() {
  {
    const std::lock_guard<std::mutex> lock(contexts_mutex_);
    if (!contexts_.empty()) {
      auto context = std::move(contexts_.back());
      contexts_.pop_back();
      return context;
    }
  }
  auto context = std::make_unique<Context>();
  context->memory = Memory(arena_bytes_ + scratch_pitch_ * size_t(pool_.threads()));
  context->scratch = context->memory.data() + arena_bytes_;
  for (size_t id = 0; id < kinds_.size(); ++id) {
    const bool constant = kinds_[id] == Kind::kConstant, arena = kinds_[id] == Kind::kArena;
    uint8_t* const base = constant ? constants_.data() : context->memory.data();
    context->pointers.push_back(constant || arena ? base + offsets_[id] : nullptr);
  }
  return context;
}

void Session::give_back(std::unique_ptr<Context> context) {
  const std::lock_guard<std::mutex> lock(contexts_mutex_);
  contexts_.push_back(std::move(context));
}

void Session::run(const void* const* inputs, void* const* outputs, double* op_seconds) {
  std::unique_ptr<Context> context = take();
  for (const Tensor& tensor : fed_) {
    const auto position = size_t(tensor.offset);
    context->pointers[size_t(tensor.id)] = static_cast<uint8_t*>(
        tensor.kind == Kind::kInput ? const_cast<void*>(inputs[position]) : outputs[position]);
  }
  {
    const std::unique_lock<std::mutex> lock(pool_mutex_, std::try_to_lock);
    if (lock.owns_lock() && pool_.threads() > 1 && cycles_ > kLeastCyclesToWake) {
      pool_.begin();
      run_ops(*context, pool_, op_seconds);
      pool_.end();
    } else {
      run_ops(*context, context->alone, op_seconds);
    }
  }
  give_back(std::move(context));
}

void Session::run_ops(const Context& context, Pool& pool, double* op_seconds) const noexcept {
  const Run run{context.pointers.data(), &pool, context.scratch, scratch_pitch_};
  if (op_seconds == nullptr) {
    for (const auto& op : ops_) op->run(run);
    return;
  }
  double before = now();
  for (size_t i = 0; i < ops_.size(); ++i) {
    ops_[i]->run(run);
    const double after = now();
    op_seconds[i] += after - before;
    before = after;
  }
}

std::vector<Session::OpInfo> Session::ops() const {
  std::vector<OpInfo> found;
  for (size_t i = 0; i < ops_.size(); ++i) {
    found.push_back({op_name(opcodes_[i]), ops_[i]->kernel()});
  }
  return found;
}

size_t Session::packed_bytes() const noexcept {
  size_t total = constants_.size();
  for (const auto& op : ops_) total += op->packed_bytes();
  return total;
}

size_t Session::context_bytes() const noexcept {
  return arena_bytes_ + scratch_pitch_ * size_t(pool_.threads());
}

}  // namespace qtool
