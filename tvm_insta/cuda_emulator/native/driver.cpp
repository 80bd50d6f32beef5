// libcuda.so.1 of the emulated device: what libtvm_runtime_cuda.so asks of the driver. Nothing of
// NVIDIA's is needed to compile it.
#include <dlfcn.h>

#include <map>
#include <memory>
#include <vector>

#include "state.h"

using namespace emu::driver;
using emu::Global;
using emu::Kernel;
using emu::Operation;
using emu::Stream;

extern "C" int emu_may_call(const char *what);

namespace {

constexpr int kMaxDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
constexpr uint32_t kMaxThreads = 1024, kParameterBytes = 4096;

struct Library {
  void *handle;
  const Kernel *kernels;
  uint32_t count;
};
struct Function {
  const Kernel *kernel;
  uint32_t dynamic_limit = kStaticShared;
};

std::vector<std::unique_ptr<Library>> libraries;
std::vector<std::unique_ptr<Function>> functions;

}  // namespace

extern "C" {

// The layout of CUDA's own CUlaunchConfig.
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};

int cuModuleLoadData(void **module, const void *image) {
  if (const int code = emu_may_call("a module is loaded")) return code;
  char path[4096];
  if (!translate || translate(image, path, sizeof path)) return kInvalidImage;
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return refuse(kInvalidImage, dlerror());
  auto kernels = static_cast<const Kernel *>(dlsym(handle, "emu_kernels"));
  auto count = static_cast<const uint32_t *>(dlsym(handle, "emu_kernel_count"));
  auto globals = static_cast<const Global *>(dlsym(handle, "emu_globals"));
  auto global_count = static_cast<const uint32_t *>(dlsym(handle, "emu_global_count"));
  auto target = static_cast<const uint32_t *>(dlsym(handle, "emu_target"));
  if (!kernels || !count || !globals || !global_count || !target) return refuse(kInvalidImage, "no table of kernels");
  if ((int)*target > architecture)
    return refuse(kNoBinary, "the kernels are for sm_" + std::to_string(*target) + ", the device is an sm_" + std::to_string(architecture));
  std::lock_guard<std::mutex> guard(lock);
  for (uint32_t i = 0; i < *global_count; ++i) emu::add_memory(globals[i].address, globals[i].size, globals[i].constant);
  libraries.push_back(std::make_unique<Library>(Library{handle, kernels, *count}));
  *module = libraries.back().get();
  return kSuccess;
}
int cuModuleUnload(void *) { return kSuccess; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  const auto &library = *static_cast<Library *>(module);
  for (uint32_t i = 0; i < library.count; ++i) {
    if (strcmp(library.kernels[i].name, name)) continue;
    std::lock_guard<std::mutex> guard(lock);
    functions.push_back(std::make_unique<Function>(Function{&library.kernels[i]}));
    *function = functions.back().get();
    return kSuccess;
  }
  return refuse(kNotFound, std::string("there is no kernel ") + name);
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
  auto &f = *static_cast<Function *>(function);
  if (attribute != kMaxDynamicShared) return refuse(kNotSupported, "a function attribute is not known to the emulator");
  if (value < 0 || f.kernel->static_bytes + (uint64_t)value > shared_limit)
    return refuse(kInvalidValue, std::string(f.kernel->name) + ": " + std::to_string(value) + " bytes of shared memory are more than the device has");
  f.dynamic_limit = (uint32_t)value;
  return kSuccess;
}
int cuLaunchKernelEx(const LaunchConfig *c, void *function, void **parameters, void **) {
  const auto &f = *static_cast<Function *>(function);
  const Kernel &k = *f.kernel;
  const std::string name = std::string(k.name) + ": ";
  const uint64_t threads = (uint64_t)c->block_x * c->block_y * c->block_z;
  const uint64_t blocks = (uint64_t)c->grid_x * c->grid_y * c->grid_z;
  if (!threads || !blocks) return refuse(kInvalidValue, name + "an empty grid or block");
  if (threads > kMaxThreads || c->block_z > 64) return refuse(kInvalidValue, name + std::to_string(threads) + " threads in a block, at most 1024 are allowed");
  if (k.max_threads && threads > k.max_threads) return refuse(kInvalidValue, name + "more threads than its .maxntid");
  if (c->grid_x > 0x7fffffffu || c->grid_y > 65535 || c->grid_z > 65535 || blocks > 0xffffffffu) return refuse(kInvalidValue, name + "a grid larger than the device allows");
  if (k.static_bytes > kStaticShared) return refuse(kInvalidValue, name + "more than 48 KiB of static shared memory");
  if (c->shared_bytes > f.dynamic_limit) return refuse(kInvalidValue, name + std::to_string(c->shared_bytes) + " bytes of dynamic shared memory, more than was asked for");
  Operation o;
  o.kernel = &k;
  o.parameters.resize(kParameterBytes / sizeof(uint64_t));
  for (uint32_t i = 0; i < k.parameter_count; ++i) {
    if (k.parameters[i].offset + k.parameters[i].size > kParameterBytes) return refuse(kInvalidValue, name + "more than 4096 bytes of parameters");
    memcpy(reinterpret_cast<char *>(o.parameters.data()) + k.parameters[i].offset, parameters[i], k.parameters[i].size);
  }
  o.grid = {c->grid_x, c->grid_y, c->grid_z};
  o.block = {c->block_x, c->block_y, c->block_z};
  o.shared = c->shared_bytes;
  std::lock_guard<std::mutex> guard(lock);
  bool executed = false;
  const int code = submit(static_cast<Stream *>(c->stream), std::move(o), &executed);
  if (executed) ++launches;
  return code;
}

int cuGetErrorName(int code, const char **text) {
  static const std::map<int, const char *> known = {{kSuccess, "CUDA_SUCCESS"}, {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"}, {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"}, {kNoBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {kNotFound, "CUDA_ERROR_NOT_FOUND"}, {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED"}, {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED"}, {emu::kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}, {emu::kCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}, {emu::kCaptureImplicit, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"}};
  auto found = known.find(code);
  *text = found == known.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
  return kSuccess;
}
int cuGetErrorString(int, const char **text) {
  *text = error.c_str();
  return kSuccess;
}
int cuInit(unsigned) { return architecture ? kSuccess : kNoDevice; }
int cuDeviceGetCount(int *count) {
  *count = architecture ? 1 : 0;
  return kSuccess;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
  if (attribute != kMajor && attribute != kMinor) return refuse(kInvalidValue, "a device attribute is not known to the emulator");
  *value = attribute == kMajor ? architecture / 10 : architecture % 10;
  return kSuccess;
}
int cuDeviceGetName(char *name, int room, int) {
  snprintf(name, (size_t)room, "emulated sm_%d", architecture);
  return kSuccess;
}
int cuTensorMapEncodeTiled(void) { return refuse(kNotSupported, "tensor maps are not known to the emulator"); }

}  // extern "C"
