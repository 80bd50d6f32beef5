/* Calls through the C interface of tvm-ffi, as the programs of the vm form make them. Functions
 * that can fail return 0, or -1 after a message on stderr. */
#ifndef TVM_CALLS_H
#define TVM_CALLS_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

enum { MAX_RANK = 8, POOLED_MEMORY = 2 };

/* Print an error that was taken from tvm-ffi, and give it back; NULL: there was none. */
static inline void print_error(const char *what, TVMFFIObjectHandle error) {
  if (error == NULL) {
    fprintf(stderr, "%s failed without a message\n", what);
    return;
  }
  const TVMFFIErrorCell *cell = (const void *)((char *)error + sizeof(TVMFFIObject));
  fprintf(stderr, "%s: %.*s: %.*s\n", what, (int)cell->kind.size, cell->kind.data,
          (int)cell->message.size, cell->message.data);
  TVMFFIObjectDecRef(error);
}

/* Print the error that tvm-ffi holds for this thread. */
static inline void report(const char *what) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  print_error(what, error);
}

static inline TVMFFIAny nothing(void) {
  TVMFFIAny value;
  memset(&value, 0, sizeof value); /* type index 0: None */
  return value;
}

static inline TVMFFIAny integer(int64_t number) {
  TVMFFIAny value = nothing();
  value.type_index = kTVMFFIInt;
  value.v_int64 = number;
  return value;
}

static inline TVMFFIAny boolean(int truth) {
  TVMFFIAny value = nothing();
  value.type_index = kTVMFFIBool;
  value.v_int64 = truth;
  return value;
}

static inline TVMFFIAny text(const char *string) {
  TVMFFIAny value = nothing();
  value.type_index = kTVMFFIRawStr;
  value.v_c_str = string;
  return value;
}

/* Give back what an owned value holds. */
static inline void release(TVMFFIAny *value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value->v_obj);
  *value = nothing();
}

static inline int call(TVMFFIObjectHandle function, const char *what, TVMFFIAny *args, int32_t count,
                TVMFFIAny *result) {
  if (TVMFFIFunctionCall(function, args, count, result) == 0) return 0;
  report(what);
  return -1;
}

/* Look a global function up; *function is owned. */
static inline int global(const char *name, TVMFFIObjectHandle *function) {
  const TVMFFIByteArray key = {name, strlen(name)};
  if (TVMFFIFunctionGetGlobal(&key, function) != 0) {
    report(name);
    return -1;
  }
  if (*function == NULL) {
    fprintf(stderr, "%s is unknown; is libtvm_runtime linked with --no-as-needed?\n", name);
    return -1;
  }
  return 0;
}

/* Look a function of a module up; *function is owned. */
static inline int method(TVMFFIObjectHandle get, TVMFFIAny module, const char *name, TVMFFIAny *function) {
  TVMFFIAny args[3];
  args[0] = module;
  args[1] = text(name);
  args[2] = boolean(0); /* not in imported modules */
  if (call(get, name, args, 3, function) != 0) return -1;
  if (function->type_index != kTVMFFIFunction) {
    fprintf(stderr, "the module has no function %s; is it of the vm form?\n", name);
    return -1;
  }
  return 0;
}

/* "3x32x32" to dims[0..]; returns the rank, or -1. *elements becomes the product. */
static inline int parse_shape(const char *argument, int64_t *dims, size_t *elements) {
  int rank = 0;
  *elements = 1;
  for (const char *at = argument;;) {
    char *end = NULL;
    errno = 0;
    const long dim = strtol(at, &end, 10);
    if (errno != 0 || end == at || dim < 1 || rank == MAX_RANK ||
        (size_t)dim > SIZE_MAX / sizeof(float) / *elements)
      return -1;
    dims[rank++] = dim;
    *elements *= (size_t)dim;
    if (*end == '\0') return rank;
    if (*end != 'x') return -1;
    at = end + 1;
  }
}

/* Shape of a batch: dims[1..rank] are those of one image, and dims[0] the number of images. */
static inline DLTensor images(void *data, int64_t *dims, int64_t *strides, int rank, int bytes) {
  DLTensor tensor;
  memset(&tensor, 0, sizeof tensor);
  strides[rank] = 1;
  for (int i = rank; i > 0; i--) strides[i - 1] = strides[i] * dims[i];
  tensor.data = data;
  tensor.device.device_type = kDLCPU;
  tensor.ndim = rank + 1;
  tensor.dtype.code = bytes ? kDLUInt : kDLFloat;
  tensor.dtype.bits = bytes ? 8 : 32;
  tensor.dtype.lanes = 1;
  tensor.shape = dims;
  tensor.strides = strides;
  return tensor;
}

#endif
