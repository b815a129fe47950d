/* Runs a Program without Python: the example for qtool/native/include/qtool/qtool.h.
 *
 *     cmake -S qtool/native -B build/c -DQTOOL_PYTHON=OFF
 *     cmake --build build/c --target run_program
 *     python -c 'import qtool.runtime as r; import sys; sys.stdout.buffer.write(
 *         r.Session("q.onnx").program({"x": (1, 3, 32, 32)}).to_bytes())' > q.qtprog
 *     build/c/run_program q.qtprog input.raw... > output.raw
 *
 * Each input file holds the elements of one input, dense and row-major; what is not given is 0.
 * The outputs follow each other on standard output.
 */
#include <stdio.h>
#include <stdlib.h>

#include "qtool/qtool.h"

static void* read_file(const char* path, size_t* n_bytes) {
  FILE* file = fopen(path, "rb");
  char* bytes = NULL;
  long size = -1;
  if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
  if (size >= 0 && fseek(file, 0, SEEK_SET) == 0) bytes = malloc((size_t)size + 1);
  if (bytes != NULL && fread(bytes, 1, (size_t)size, file) != (size_t)size) {
    free(bytes);
    bytes = NULL;
  }
  if (file != NULL) fclose(file);
  if (bytes == NULL) {
    fprintf(stderr, "run_program: cannot read %s\n", path);
    exit(1);
  }
  *n_bytes = (size_t)size;
  return bytes;
}

static const char* const kNames[] = {"?",     "float32", "uint8", "int8", "int32",
                                     "int64", "uint16",  "int16", "bool", "float64"};

static void describe(const char* what, const qtool_tensor* tensor) {
  fprintf(stderr, "%s %s[", what, kNames[tensor->dtype]);
  for (int i = 0; i < tensor->rank; ++i) fprintf(stderr, i == 0 ? "%d" : ",%d", tensor->dims[i]);
  fprintf(stderr, "]\n");
}

static void* input(const qtool_tensor* tensor, const char* path) {
  size_t n_bytes = tensor->n_bytes;
  void* values;
  if (path == NULL) return calloc(n_bytes, 1);
  values = read_file(path, &n_bytes);
  if (n_bytes != tensor->n_bytes) {
    fprintf(stderr, "run_program: %s has %zu bytes, %zu are needed\n", path, n_bytes,
            tensor->n_bytes);
    exit(1);
  }
  return values;
}

int main(int argc, char** argv) {
  char error[256];
  size_t n_bytes;
  int status = 0;
  if (argc < 2) {
    fprintf(stderr, "usage: run_program PROGRAM [INPUT...]\n");
    return 2;
  }
  void* program = read_file(argv[1], &n_bytes);
  qtool_session* session = qtool_open(program, n_bytes, NULL, error, sizeof error);
  free(program);
  if (session == NULL) {
    fprintf(stderr, "run_program: %s: %s\n", argv[1], error);
    return 1;
  }

  const int n_inputs = qtool_n_inputs(session), n_outputs = qtool_n_outputs(session);
  const void** inputs = calloc((size_t)n_inputs + 1, sizeof *inputs);
  void** outputs = calloc((size_t)n_outputs + 1, sizeof *outputs);
  for (int i = 0; i < n_inputs; ++i) {
    describe("input", qtool_input(session, i));
    inputs[i] = input(qtool_input(session, i), i + 2 < argc ? argv[i + 2] : NULL);
  }
  for (int i = 0; i < n_outputs; ++i) {
    describe("output", qtool_output(session, i));
    outputs[i] = malloc(qtool_output(session, i)->n_bytes);
  }
  if (qtool_run(session, inputs, outputs) != 0) {
    fprintf(stderr, "run_program: no memory\n");
    status = 1;
  }
  for (int i = 0; status == 0 && i < n_outputs; ++i) {
    fwrite(outputs[i], 1, qtool_output(session, i)->n_bytes, stdout);
  }

  for (int i = 0; i < n_inputs; ++i) free((void*)inputs[i]);
  for (int i = 0; i < n_outputs; ++i) free(outputs[i]);
  free(inputs);
  free(outputs);
  qtool_close(session);
  return status;
}
