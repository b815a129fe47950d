// Runs Programs on given inputs and compares their outputs byte for byte with given ones. Needs no
// Python, so that the runtime of another processor can be checked in an emulator.
//
//     check_programs ISA THREADS case...
//
// A case is a file of blobs, each after its length (u64, little endian): the Program, its inputs,
// its outputs; scripts/write_cases.py makes them. Exit code 1, and which case, when bytes differ.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "qtool/qtool.h"

namespace {

using Bytes = std::vector<uint8_t>;

[[noreturn]] void fail(const char* path, const char* problem) {
  std::fprintf(stderr, "check_programs: %s: %s\n", path, problem);
  std::exit(1);
}

std::vector<Bytes> read_blobs(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const Bytes all{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::vector<Bytes> blobs;
  for (size_t at = 0; at < all.size();) {
    uint64_t n = 0;
    if (all.size() - at < sizeof n) fail(path, "it ends too early");
    std::memcpy(&n, all.data() + at, sizeof n);
    at += sizeof n;
    if (all.size() - at < n) fail(path, "it ends too early");
    blobs.emplace_back(all.begin() + int64_t(at), all.begin() + int64_t(at + n));
    at += n;
  }
  if (blobs.empty()) fail(path, "it cannot be read");
  return blobs;
}

void check(const char* path, const qtool_options& options) {
  std::vector<Bytes> blobs = read_blobs(path);
  char error[256] = "";
  qtool_session* session =
      qtool_open(blobs[0].data(), blobs[0].size(), &options, error, sizeof error);
  if (session == nullptr) fail(path, error);
  const auto n_inputs = size_t(qtool_n_inputs(session)),
             n_outputs = size_t(qtool_n_outputs(session));
  if (blobs.size() != 1 + n_inputs + n_outputs) fail(path, "it has another number of tensors");
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  std::vector<Bytes> made;
  for (size_t i = 0; i < n_inputs; ++i) {
    if (blobs[1 + i].size() != qtool_input(session, int(i))->n_bytes) fail(path, "an input's size");
    inputs.push_back(blobs[1 + i].data());
  }
  for (size_t i = 0; i < n_outputs; ++i) made.emplace_back(qtool_output(session, int(i))->n_bytes);
  for (Bytes& bytes : made) outputs.push_back(bytes.data());
  if (qtool_run(session, inputs.data(), outputs.data()) != 0) fail(path, "it cannot run");
  for (size_t i = 0; i < n_outputs; ++i) {
    if (made[i] != blobs[1 + n_inputs + i]) fail(path, "its outputs differ");
  }
  qtool_close(session);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const qtool_options options{std::atoi(argv[2]), argv[1]};
  for (int i = 3; i < argc; ++i) check(argv[i], options);
  std::printf("%d Programs equal, %s, %s threads\n", argc - 3, argv[1], argv[2]);
}
