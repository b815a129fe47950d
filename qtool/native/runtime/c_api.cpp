#include <algorithm>
#include <cstring>
#include <exception>

#include "isa.h"
#include "qtool/qtool.h"
#include "runtime/session.h"

struct qtool_session {
  qtool::Session session;
  std::vector<qtool_tensor> inputs, outputs;
};

namespace {

qtool_tensor described(const qtool::Tensor& tensor) {
  qtool_tensor made{};
  made.dtype = qtool_dtype(tensor.dtype);
  made.rank = tensor.rank;
  std::copy(tensor.dims, tensor.dims + qtool::kMaxRank, made.dims);
  made.n_bytes = size_t(tensor.bytes);
  return made;
}

std::vector<qtool_tensor> described(const std::vector<qtool::Tensor>& tensors) {
  std::vector<qtool_tensor> made;
  for (const qtool::Tensor& tensor : tensors) made.push_back(described(tensor));
  return made;
}

const qtool_tensor* at(const std::vector<qtool_tensor>& tensors, int i) {
  return i >= 0 && size_t(i) < tensors.size() ? &tensors[size_t(i)] : nullptr;
}

void report(const char* message, char* error, size_t error_bytes) {
  if (error == nullptr || error_bytes == 0) return;
  std::strncpy(error, message, error_bytes - 1);
  error[error_bytes - 1] = '\0';
}

qtool_session* open(const void* bytes, size_t n_bytes, const qtool_options& options) {
  const auto* given = static_cast<const uint8_t*>(bytes);
  qtool::Memory copy;
  if (reinterpret_cast<uintptr_t>(bytes) % 8 != 0) {
    copy = qtool::Memory(n_bytes);
    std::memcpy(copy.data(), bytes, n_bytes);
    given = copy.data();
  }
  const qtool::Isa isa = qtool::isa_named(options.isa == nullptr ? "" : options.isa);
  const int threads = std::max(options.threads, 1);
  auto* made = new qtool_session{{given, n_bytes, isa, threads}, {}, {}};
  made->inputs = described(made->session.inputs());
  made->outputs = described(made->session.outputs());
  return made;
}

}  // namespace

extern "C" {

qtool_session* qtool_open(const void* bytes, size_t n_bytes, const qtool_options* options,
                          char* error, size_t error_bytes) {
  try {
    return open(bytes, n_bytes, options == nullptr ? qtool_options{} : *options);
  } catch (const std::exception& problem) {
    report(problem.what(), error, error_bytes);
    return nullptr;
  }
}

void qtool_close(qtool_session* session) { delete session; }

int qtool_n_inputs(const qtool_session* session) { return int(session->inputs.size()); }

int qtool_n_outputs(const qtool_session* session) { return int(session->outputs.size()); }

const qtool_tensor* qtool_input(const qtool_session* session, int i) {
  return at(session->inputs, i);
}

const qtool_tensor* qtool_output(const qtool_session* session, int i) {
  return at(session->outputs, i);
}

int qtool_run(qtool_session* session, const void* const* inputs, void* const* outputs) {
  try {
    session->session.run(inputs, outputs);
    return 0;
  } catch (const std::exception&) {
    return -1;
  }
}

}  // extern "C"
