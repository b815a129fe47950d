/* The runtime without Python: loads the bytes that Session(...).program().to_bytes()
 * gives in qtool.runtime, and runs them.
 *
 *     char error[256];
 *     qtool_session* session = qtool_open(bytes, n_bytes, NULL, error, sizeof error);
 *     const void* inputs[] = {image};   // qtool_input(session, 0)->n_bytes bytes each
 *     void* outputs[] = {scores};
 *     if (session == NULL || qtool_run(session, inputs, outputs) != 0) ...
 *     qtool_close(session);
 *
 * A Program has fixed shapes and is specific to nothing else: any processor runs the same bytes.
 */
#ifndef QTOOL_QTOOL_H_
#define QTOOL_QTOOL_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum qtool_dtype {
  QTOOL_FLOAT32 = 1,
  QTOOL_UINT8,
  QTOOL_INT8,
  QTOOL_INT32,
  QTOOL_INT64,
  QTOOL_UINT16,
  QTOOL_INT16,
  QTOOL_BOOL,
  QTOOL_FLOAT64
};

typedef struct qtool_session qtool_session;

typedef struct qtool_options {
  int threads;     /* 0 and 1: the calling thread only */
  const char* isa; /* most that kernels may use, as in QTOOL_ISA; NULL: what the processor has */
} qtool_options;

typedef struct qtool_tensor {
  enum qtool_dtype dtype;
  int rank;
  int32_t dims[6];
  size_t n_bytes;
} qtool_tensor;

/* A session, or NULL with a line of text in error. bytes may go when it returns. */
qtool_session* qtool_open(const void* bytes, size_t n_bytes, const qtool_options* options,
                          char* error, size_t error_bytes);
void qtool_close(qtool_session* session);

int qtool_n_inputs(const qtool_session* session);
int qtool_n_outputs(const qtool_session* session);

/* What input or output i is, valid until the session is closed; NULL when there is none. */
const qtool_tensor* qtool_input(const qtool_session* session, int i);
const qtool_tensor* qtool_output(const qtool_session* session, int i);

/* Runs once; 0, or -1 when there is no memory. Any number of threads may call it at once. Tensors
 * are dense, row-major, aligned to their elements; inputs and outputs must not overlap. */
int qtool_run(qtool_session* session, const void* const* inputs, void* const* outputs);

#ifdef __cplusplus
}
#endif

#endif
