/* Classify a batch of images on an NVIDIA card, with a model that was compiled with `--target h100`
 * or another one for CUDA, through the C interface of tvm-ffi. README.md says how to link it.
 *
 *   ./cuda build/model/model.so batch.raw 3x32x32
 *
 * CUDA's libraries and TVM's library for CUDA are opened by the program itself, so that it can say
 * what is missing. The arguments are those of vm.c, and so is -DMAX_BATCH=N.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch_file.h"
#include "tvm_calls.h"

/* Images of one call: as many as the model was compiled for (`compile --max-batch`). */
#ifndef MAX_BATCH
#define MAX_BATCH 64
#endif

/* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_... */
enum { MAJOR = 75, MINOR = 76 };

typedef int Init(unsigned);
typedef int Count(int *);
typedef int Attribute(int *, int, int);

/* A function of a library; ISO C has no conversion from a pointer to data. */
static void find(void *library, const char *name, void *function) {
  void *found = dlsym(library, name);
  memcpy(function, &found, sizeof found);
}

/* Open the driver, look at the first card, and open what the model needs. *capability becomes 90
 * for an sm_90. Returns 0, or -1 after a sentence on stderr. */
static int open_cuda(int *capability) {
  Init *init = NULL;
  Count *count = NULL;
  Attribute *attribute = NULL;
  int cards = 0, major = 0, minor = 0;
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (driver != NULL) {
    find(driver, "cuInit", &init);
    find(driver, "cuDeviceGetCount", &count);
    find(driver, "cuDeviceGetAttribute", &attribute);
  }
  if (init == NULL || count == NULL || attribute == NULL) {
    fprintf(stderr, "the model is for CUDA, and this machine has no CUDA driver: run it on a machine "
                    "with an NVIDIA card\n");
    return -1;
  }
  if (init(0) != 0 || count(&cards) != 0 || cards < 1 || attribute(&major, MAJOR, 0) != 0 ||
      attribute(&minor, MINOR, 0) != 0) {
    fprintf(stderr, "the model is for CUDA, and the driver finds no card: run it on a machine with an "
                    "NVIDIA card\n");
    return -1;
  }
  *capability = 10 * major + minor;
  if (dlopen("libcudart.so.13", RTLD_NOW | RTLD_GLOBAL) == NULL) {
    fprintf(stderr, "CUDA's run time cannot be opened (%s): install version 13, or name its folder in "
                    "LD_LIBRARY_PATH\n", dlerror());
    return -1;
  }
  if (dlopen("libtvm_runtime_cuda.so", RTLD_NOW | RTLD_GLOBAL) == NULL) {
    fprintf(stderr, "TVM's library for CUDA cannot be opened (%s): link the program with -Wl,-rpath "
                    "for the folder of libtvm_runtime.so\n", dlerror());
    return -1;
  }
  return 0;
}

static int contains(const TVMFFIByteArray *bytes, const char *word) {
  const size_t length = strlen(word);
  for (size_t at = 0; at + length <= bytes->size; at++)
    if (memcmp(bytes->data + at, word, length) == 0) return 1;
  return 0;
}

/* As `call`, of a function that launches kernels: the driver refuses those for a newer card. */
static int launch(TVMFFIObjectHandle function, const char *what, TVMFFIAny *args, int32_t number,
                  TVMFFIAny *result, int capability) {
  if (TVMFFIFunctionCall(function, args, number, result) == 0) return 0;
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  if (error != NULL) {
    const TVMFFIErrorCell *cell = (const void *)((char *)error + sizeof(TVMFFIObject));
    if (contains(&cell->message, "CUDA_ERROR_NO_BINARY_FOR_GPU")) {
      fprintf(stderr, "the model is for newer cards than this one, an sm_%d: compile it with --target "
                      "\"cuda -arch=sm_%d\"\n", capability, capability);
      TVMFFIObjectDecRef(error);
      return -1;
    }
  }
  print_error(what, error);
  return -1;
}

/* Functions of the virtual machine, and one that copies a tensor to the host; all are owned. */
typedef struct {
  TVMFFIAny set_input, invoke, get_output;
  TVMFFIObjectHandle copy;
  int capability;
} Network;

/* Run the model on a tensor and print its logits; `first` is the number of the first image. */
static int classify(const Network *network, DLTensor *tensor, int32_t first) {
  int status = -1;
  float *values = NULL;
  TVMFFIAny result = nothing(), ignored = nothing(), args[3];
  args[0] = text("main");
  args[1] = nothing();
  args[1].type_index = kTVMFFIDLTensorPtr;
  args[1].v_ptr = tensor;
  if (call(network->set_input.v_obj, "set_input", args, 2, &ignored) != 0) goto done;
  if (launch(network->invoke.v_obj, "main", args, 1, &ignored, network->capability) != 0) goto done;
  if (call(network->get_output.v_obj, "get_output", args, 1, &result) != 0) goto done;
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
  const size_t classes = (size_t)logits->shape[1], rows = (size_t)logits->shape[0];
  values = malloc(rows * classes * sizeof *values);
  if (values == NULL) {
    fprintf(stderr, "no memory for the logits\n");
    goto done;
  }
  args[0] = result;
  args[1] = nothing();
  args[1].type_index = kTVMFFIOpaquePtr;
  args[1].v_ptr = values;
  args[2] = integer((int64_t)(rows * classes * sizeof *values));
  if (launch(network->copy, "copy", args, 3, &ignored, network->capability) != 0) goto done;
  status = print_logits(values, first, (int32_t)rows, classes);
done:
  free(values);
  release(&result);
  return status;
}

int main(int argc, char **argv) {
  int status = EXIT_FAILURE;
  void *input = NULL;
  int32_t total = 0;
  size_t elements = 0, element_bytes = sizeof(float);
  int64_t shape[MAX_RANK + 1], strides[MAX_RANK + 1];
  TVMFFIObjectHandle load = NULL, get = NULL;
  TVMFFIAny library = nothing(), make_vm = nothing(), vm = nothing(), init = nothing();
  TVMFFIAny ignored = nothing();
  Network network = {nothing(), nothing(), nothing(), NULL, 0};

  if (argc != 4) {
    fprintf(stderr,
            "usage: %s MODEL.so BATCH.raw SHAPE   (SHAPE of one image, such as 3x32x32 or "
            "uint8:3x32x32)\n",
            argv[0]);
    return EXIT_FAILURE;
  }
  const int bytes = strncmp(argv[3], "uint8:", 6) == 0;
  if (bytes) element_bytes = 1;
  const int rank = parse_shape(argv[3] + (bytes ? 6 : 0), shape + 1, &elements);
  if (rank < 0) {
    fprintf(stderr, "%s is no shape of up to %d dimensions, such as 3x32x32\n", argv[3], MAX_RANK);
    return EXIT_FAILURE;
  }
  if (read_batch(argv[2], elements * element_bytes, &input, &total) != 0) goto done;
  if (open_cuda(&network.capability) != 0) goto done;

  /* Load the library, make a virtual machine of it and initialise that on the card, with the CPU
   * for what computes shapes. */
  if (global("ffi.ModuleLoadFromFile", &load) != 0) goto done;
  if (global("ffi.ModuleGetFunction", &get) != 0) goto done;
  if (global("runtime.TVMTensorCopyToBytes", &network.copy) != 0) goto done;
  TVMFFIAny path = text(argv[1]);
  if (call(load, argv[1], &path, 1, &library) != 0) goto done;
  if (method(get, library, "vm_load_executable", &make_vm) != 0) goto done;
  if (call(make_vm.v_obj, "vm_load_executable", NULL, 0, &vm) != 0) goto done;
  if (method(get, vm, "vm_initialization", &init) != 0) goto done;
  TVMFFIAny devices[6];
  devices[0] = integer(kDLCUDA);
  devices[3] = integer(kDLCPU);
  devices[1] = devices[4] = integer(0);
  devices[2] = devices[5] = integer(POOLED_MEMORY);
  if (call(init.v_obj, "vm_initialization", devices, 6, &ignored) != 0) goto done;
  if (method(get, vm, "set_input", &network.set_input) != 0) goto done;
  if (method(get, vm, "invoke_stateful", &network.invoke) != 0) goto done;
  if (method(get, vm, "get_output", &network.get_output) != 0) goto done;

  for (int32_t first = 0; first < total; first += MAX_BATCH) {
    shape[0] = total - first < MAX_BATCH ? total - first : MAX_BATCH;
    void *images_of_call = (char *)input + (size_t)first * elements * element_bytes;
    DLTensor tensor = images(images_of_call, shape, strides, rank, bytes);
    if (classify(&network, &tensor, first) != 0) goto done;
  }
  status = EXIT_SUCCESS;
done:
  release(&ignored);
  release(&network.get_output);
  release(&network.invoke);
  release(&network.set_input);
  release(&init);
  release(&vm);
  release(&make_vm);
  release(&library);
  if (network.copy != NULL) TVMFFIObjectDecRef(network.copy);
  if (get != NULL) TVMFFIObjectDecRef(get);
  if (load != NULL) TVMFFIObjectDecRef(load);
  free(input);
  return status;
}
