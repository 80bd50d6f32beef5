/* Classify a batch of images with the vm form of a model (compiled with `--runtime vm`), through the
 * C interface of tvm-ffi.
 *
 *   TVM=$(python -c 'import importlib.util as u; print(u.find_spec("tvm").submodule_search_locations[0])')
 *   gcc -std=c11 -O2 -Wall -Wextra -Werror -isystem "$(tvm-ffi-config --includedir)" \
 *       -isystem "$(tvm-ffi-config --dlpack-includedir)" vm.c -o vm -L "$TVM/lib" \
 *       -L "$(tvm-ffi-config --libdir)" -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi \
 *       -Wl,-rpath,"$TVM/lib" -Wl,-rpath,"$(tvm-ffi-config --libdir)"
 *   ./vm build/model/model.so batch.raw 3x32x32
 *   ./vm build/model/model.so batch.raw 3x32x32 2     (with two threads: the same bits)
 *
 * The third argument is the shape of one image, as in the manifest (`inputs`) without the batch; of a
 * network that takes bytes, `uint8:3x32x32`. A model that was compiled with --max-batch N needs
 * -DMAX_BATCH=N.
 * --no-as-needed: the program calls nothing of libtvm_runtime, which registers the VM when loaded.
 * README.md says how batch.raw is made.
 */
#define _POSIX_C_SOURCE 200112L /* setenv */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#include "batch_file.h"

/* Images of one call: as many as the model was compiled for (`compile --max-batch`). */
#ifndef MAX_BATCH
#define MAX_BATCH 64
#endif

enum { MAX_RANK = 8, POOLED_MEMORY = 2 };

/* Print the error that tvm-ffi holds for this thread. */
static void report(const char *what) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) {
    fprintf(stderr, "%s failed without a message\n", what);
    return;
  }
  const TVMFFIErrorCell *cell = (const void *)((char *)error + sizeof(TVMFFIObject));
  fprintf(stderr, "%s: %.*s: %.*s\n", what, (int)cell->kind.size, cell->kind.data,
          (int)cell->message.size, cell->message.data);
  TVMFFIObjectDecRef(error);
}

static TVMFFIAny nothing(void) {
  TVMFFIAny value;
  memset(&value, 0, sizeof value); /* type index 0: None */
  return value;
}

static TVMFFIAny integer(int64_t number) {
  TVMFFIAny value = nothing();
  value.type_index = kTVMFFIInt;
  value.v_int64 = number;
  return value;
}

static TVMFFIAny boolean(int truth) {
  TVMFFIAny value = nothing();
  value.type_index = kTVMFFIBool;
  value.v_int64 = truth;
  return value;
}

static TVMFFIAny text(const char *string) {
  TVMFFIAny value = nothing();
  value.type_index = kTVMFFIRawStr;
  value.v_c_str = string;
  return value;
}

/* Give back what an owned value holds. */
static void release(TVMFFIAny *value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value->v_obj);
  *value = nothing();
}

static int call(TVMFFIObjectHandle function, const char *what, TVMFFIAny *args, int32_t count,
                TVMFFIAny *result) {
  if (TVMFFIFunctionCall(function, args, count, result) == 0) return 0;
  report(what);
  return -1;
}

/* Look a global function up; *function is owned. */
static int global(const char *name, TVMFFIObjectHandle *function) {
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
static int method(TVMFFIObjectHandle get, TVMFFIAny module, const char *name, TVMFFIAny *function) {
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
static int parse_shape(const char *argument, int64_t *dims, size_t *elements) {
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

/* Run the model on a tensor and print its logits; `first` is the number of the first image. */
static int classify(TVMFFIAny run, DLTensor *tensor, int32_t first) {
  int status = -1;
  TVMFFIAny argument = nothing(), result = nothing();
  argument.type_index = kTVMFFIDLTensorPtr;
  argument.v_ptr = tensor;
  if (call(run.v_obj, "main", &argument, 1, &result) != 0) goto done;
  if (result.type_index != kTVMFFITensor) {
    fprintf(stderr, "the model returned no tensor\n");
    goto done;
  }
  const DLTensor *logits = (const void *)((char *)result.v_obj + sizeof(TVMFFIObject));
  if (logits->ndim != 2 || logits->shape[0] != tensor->shape[0] ||
      logits->dtype.code != kDLFloat || logits->dtype.bits != 32) {
    fprintf(stderr, "the model returned something other than float32 logits [batch, classes]\n");
    goto done;
  }
  const float *values = (const void *)((const char *)logits->data + logits->byte_offset);
  status = print_logits(values, first, (int32_t)logits->shape[0], (size_t)logits->shape[1]);
done:
  release(&result);
  return status;
}

int main(int argc, char **argv) {
  int status = EXIT_FAILURE;
  void *input = NULL;
  int32_t images = 0;
  size_t elements = 0, element_bytes = sizeof(float);
  int64_t shape[MAX_RANK + 1];
  TVMFFIObjectHandle load = NULL, get = NULL;
  TVMFFIAny library = nothing(), make_vm = nothing(), vm = nothing(), init = nothing();
  TVMFFIAny run = nothing(), ignored = nothing();

  if (argc != 4 && argc != 5) {
    fprintf(stderr,
            "usage: %s MODEL.so BATCH.raw SHAPE [THREADS]   (SHAPE of one image, such as 3x32x32 or "
            "uint8:3x32x32)\n",
            argv[0]);
    return EXIT_FAILURE;
  }
  /* TVM reads the number of threads when it first runs a parallel loop. */
  if (argc == 5 && (read_threads(argv[4]) < 1 || setenv("TVM_NUM_THREADS", argv[4], 1) != 0))
    return EXIT_FAILURE;
  const int bytes = strncmp(argv[3], "uint8:", 6) == 0;
  if (bytes) element_bytes = 1;
  const int rank = parse_shape(argv[3] + (bytes ? 6 : 0), shape + 1, &elements);
  if (rank < 0) {
    fprintf(stderr, "%s is no shape of up to %d dimensions, such as 3x32x32\n", argv[3], MAX_RANK);
    return EXIT_FAILURE;
  }
  if (read_batch(argv[2], elements * element_bytes, &input, &images) != 0) goto done;
  shape[0] = MAX_BATCH;

  /* Load the library, make a virtual machine of it and initialise that on the CPU. */
  if (global("ffi.ModuleLoadFromFile", &load) != 0) goto done;
  if (global("ffi.ModuleGetFunction", &get) != 0) goto done;
  TVMFFIAny path = text(argv[1]);
  if (call(load, argv[1], &path, 1, &library) != 0) goto done;
  if (method(get, library, "vm_load_executable", &make_vm) != 0) goto done;
  if (call(make_vm.v_obj, "vm_load_executable", NULL, 0, &vm) != 0) goto done;
  if (method(get, vm, "vm_initialization", &init) != 0) goto done;
  TVMFFIAny device[3];
  device[0] = integer(kDLCPU);
  device[1] = integer(0);
  device[2] = integer(POOLED_MEMORY);
  if (call(init.v_obj, "vm_initialization", device, 3, &ignored) != 0) goto done;
  if (method(get, vm, "main", &run) != 0) goto done;

  int64_t strides[MAX_RANK + 1];
  strides[rank] = 1;
  for (int i = rank; i > 0; i--) strides[i - 1] = strides[i] * shape[i];
  DLTensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.data = input;
  tensor.device.device_type = kDLCPU;
  tensor.ndim = rank + 1;
  tensor.dtype.code = bytes ? kDLUInt : kDLFloat;
  tensor.dtype.bits = bytes ? 8 : 32;
  tensor.dtype.lanes = 1;
  tensor.shape = shape;
  tensor.strides = strides;
  /* The VM reads images where they are, and kernels need them at a multiple of 64 bytes: read_batch
   * put the first there, and those of later calls are moved to the same place. */
  for (int32_t first = 0; first < images; first += MAX_BATCH) {
    const int32_t count = images - first < MAX_BATCH ? images - first : MAX_BATCH;
    const size_t image_bytes = elements * element_bytes;
    memmove(input, (char *)input + (size_t)first * image_bytes, (size_t)count * image_bytes);
    shape[0] = count;
    if (classify(run, &tensor, first) != 0) goto done;
  }
  status = EXIT_SUCCESS;
done:
  release(&ignored);
  release(&run);
  release(&init);
  release(&vm);
  release(&make_vm);
  release(&library);
  if (get != NULL) TVMFFIObjectDecRef(get);
  if (load != NULL) TVMFFIObjectDecRef(load);
  free(input);
  return status;
}
