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
 * network that takes bytes, `uint8:3x32x32`. -DMAX_BATCH=N runs N images in one call: at most the
 * model's max_batch; what model.json has as images_at_once is fastest.
 * --no-as-needed: the program calls nothing of libtvm_runtime, which registers the VM when loaded.
 * README.md says how batch.raw is made.
 */
#define _POSIX_C_SOURCE 200112L /* setenv */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch_file.h"
#include "tvm_calls.h"

/* Images of one call: at most as many as the model was compiled for (`compile --max-batch`). */
#ifndef MAX_BATCH
#define MAX_BATCH 64
#endif

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
  int32_t total = 0;
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
  if (read_batch(argv[2], elements * element_bytes, &input, &total) != 0) goto done;
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
  DLTensor tensor = images(input, shape, strides, rank, bytes);
  /* The VM reads images where they are, and kernels need them at a multiple of 64 bytes: read_batch
   * put the first there, and those of later calls are moved to the same place. */
  for (int32_t first = 0; first < total; first += MAX_BATCH) {
    const int32_t count = total - first < MAX_BATCH ? total - first : MAX_BATCH;
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
