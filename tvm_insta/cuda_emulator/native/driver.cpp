// libcuda.so.1 of the emulated device: what libtvm_runtime_cuda.so asks of the driver, and how
// Python starts and reads it (emu_...). Nothing of NVIDIA's is needed to compile it.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "counts.h"
#include "engine.h"
#include "streams.h"

using emu::Dim;
using emu::Global;
using emu::Graph;
using emu::Kernel;
using emu::Operation;
using emu::Stream;

namespace {

// CUresult
enum { kSuccess = 0, kInvalidValue = 1, kNoDevice = 100, kInvalidImage = 200, kNoBinary = 209, kNotFound = 500, kLaunchFailed = 719, kNotSupported = 801 };
constexpr int kMaxDynamicShared = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
constexpr uint32_t kStaticShared = 48 << 10;
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

std::mutex lock;
int architecture = 0;  // 90 for sm_90; 0: there is no device
uint32_t shared_limit = kStaticShared;
int (*translate)(const void *image, char *path, int room) = nullptr;
std::string error, names;
uint64_t launches = 0, graph_launches = 0, host_copies = 0;
std::vector<std::unique_ptr<Library>> libraries;
std::vector<std::unique_ptr<Function>> functions;

bool alone = false;  // without Python, which reads `error`
int refuse(int code, const std::string &why) {
  error = why;
  if (alone && (code == kInvalidImage || code == kLaunchFailed)) fprintf(stderr, "the emulated device says: %s\n", why.c_str());
  return code;
}

// ---- without Python: translated kernels lie beside this library, see folder.py

std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(own_folder), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}
int look_up(const void *image, char *path, int room) {
  struct Header { uint32_t magic; uint16_t version, skip; uint64_t size; } header;
  memcpy(&header, image, sizeof header);
  if (header.magic != 0xba55ed50u) return refuse(kInvalidImage, "the device code is no fat binary"), 1;
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (uint64_t i = 0; i < header.skip + header.size; ++i)
    hash = (hash ^ static_cast<const unsigned char *>(image)[i]) * 0x100000001b3u;
  const int length = snprintf(path, (size_t)room, "%s/%016llx.so", own_folder().c_str(), (unsigned long long)hash);
  if (length >= 0 && length < room) return 0;
  return refuse(kInvalidImage, "the path of the emulator's folder is too long"), 1;
}
struct AtStart {  // a device is there from the beginning, where a file beside the library says so
  AtStart() {
    FILE *file = fopen((own_folder() + "/device").c_str(), "r");
    if (!file) return;
    int arch = 0;
    uint32_t limit = 0;
    if (fscanf(file, "%d %u", &arch, &limit) == 2) {
      architecture = arch;
      shared_limit = limit;
      translate = look_up;
      alone = true;
    }
    fclose(file);
  }
} at_start;

// The kernel or copy itself; the lock is held.
int execute(const Operation &o) {
  if (!o.kernel) {
    if (!emu::holds_memory(o.to, o.bytes) || !emu::holds_memory(o.from, o.bytes)) return refuse(kInvalidValue, "a copy from or to what is no device memory any more");
    memmove(o.to, o.from, o.bytes);
    return kSuccess;
  }
  names += o.kernel->name;
  names += '\n';
  const std::string failed = emu::launch(*o.kernel, reinterpret_cast<const char *>(o.parameters.data()), o.grid, o.block, o.shared);
  return failed.empty() ? kSuccess : refuse(kLaunchFailed, std::string(o.kernel->name) + ": " + failed);
}
// Executes work for a stream, or records it; the lock is held.
int submit(Stream *stream, Operation &&operation, bool *executed = nullptr) {
  std::string why;
  int code = kSuccess;
  const emu::Way way = emu::way_of(stream, why, code);
  if (executed) *executed = way == emu::Way::kExecute;
  if (way == emu::Way::kRefuse) return refuse(code, why);
  if (way == emu::Way::kExecute) return execute(operation);
  stream->graph.operations.push_back(std::move(operation));
  return kSuccess;
}

}  // namespace

extern "C" {

// The layout of CUDA's own CUlaunchConfig.
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};

void emu_start(int arch, uint32_t optin_shared, int (*translator)(const void *, char *, int)) {
  architecture = arch;
  shared_limit = optin_shared;
  translate = translator;
}
void emu_configure(int order, uint32_t seed, int late_copies, int races, int counts) {
  emu::options = {order, seed, late_copies != 0, races != 0, counts != 0};
}
int emu_architecture() { return architecture; }
uint32_t emu_shared_limit() { return shared_limit; }
uint64_t emu_launches() { return launches; }
uint64_t emu_graph_launches() { return graph_launches; }
uint64_t emu_host_copies() { return host_copies; }
void emu_count_host_copy() { ++host_copies; }
// Names of the kernels that were launched since the last call, in order, one a line.
const char *emu_take_names() {
  static std::string taken;
  std::lock_guard<std::mutex> guard(lock);
  taken.swap(names);
  names.clear();
  return taken.c_str();
}
const char *emu_take_counts() {
  static std::string taken;
  std::lock_guard<std::mutex> guard(lock);
  taken = emu::take_counts();
  return taken.c_str();
}
const char *emu_error() { return error.c_str(); }
void emu_clear_error() { error.clear(); }
void emu_add_memory(const void *at, size_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  emu::add_memory(at, bytes, false);
}
void emu_remove_memory(const void *at) {
  std::lock_guard<std::mutex> guard(lock);
  emu::remove_memory(at);
}
int emu_holds_memory(const void *at, size_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  return emu::holds_memory(at, bytes);
}
int emu_refuse(int code, const char *why) { return refuse(code, why); }
int emu_may_call(const char *);

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

// What the stand-in for CUDA's run time asks for. Codes are those of cudaError_t.
int emu_may_call(const char *what) {
  std::lock_guard<std::mutex> guard(lock);
  const std::string why = emu::unsafe_call(what);
  return why.empty() ? kSuccess : refuse(emu::kCaptureUnsupported, why);
}
int emu_may_wait(void *stream) {
  std::lock_guard<std::mutex> guard(lock);
  std::string why;
  int code = kSuccess;
  return emu::may_wait(static_cast<Stream *>(stream), why, code) ? kSuccess : refuse(code, why);
}
void *emu_create_stream(int blocking) {
  std::lock_guard<std::mutex> guard(lock);
  return emu::create_stream(blocking != 0);
}
void emu_destroy_stream(void *stream) {
  std::lock_guard<std::mutex> guard(lock);
  emu::destroy_stream(static_cast<Stream *>(stream));
}
int emu_copy_within(void *to, const void *from, size_t bytes, void *stream) {
  Operation o;
  o.to = to;
  o.from = from;
  o.bytes = bytes;
  std::lock_guard<std::mutex> guard(lock);
  return submit(static_cast<Stream *>(stream), std::move(o));
}
int emu_begin_capture(void *stream, int mode) {
  std::lock_guard<std::mutex> guard(lock);
  std::string why;
  const int code = emu::begin_capture(static_cast<Stream *>(stream), static_cast<emu::Mode>(mode), why);
  return code ? refuse(code, why) : kSuccess;
}
int emu_end_capture(void *stream, void **graph) {
  std::lock_guard<std::mutex> guard(lock);
  std::string why;
  Graph *got = nullptr;
  const int code = emu::end_capture(static_cast<Stream *>(stream), &got, why);
  *graph = got;
  return code ? refuse(code, why) : kSuccess;
}
int emu_instantiate(void **executable, const void *graph) {
  if (!graph) return refuse(kInvalidValue, "there is no graph");
  *executable = new Graph(*static_cast<const Graph *>(graph));
  return kSuccess;
}
void emu_destroy_graph(void *graph) { delete static_cast<Graph *>(graph); }
int emu_launch_graph(void *executable, void *stream) {
  std::lock_guard<std::mutex> guard(lock);
  std::string why;
  int code = kSuccess;
  const emu::Way way = emu::way_of(static_cast<Stream *>(stream), why, code);
  if (way == emu::Way::kRefuse) return refuse(code, why);
  if (way == emu::Way::kRecord) return refuse(kNotSupported, "a graph within a graph is not known to the emulator");
  ++graph_launches;
  for (const Operation &each : static_cast<const Graph *>(executable)->operations)
    if (const int failed = execute(each)) return failed;
  return kSuccess;
}

int cuGetErrorName(int code, const char **text) {
  static const std::map<int, const char *> known = {{kSuccess, "CUDA_SUCCESS"}, {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"}, {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"}, {kNoBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {kNotFound, "CUDA_ERROR_NOT_FOUND"}, {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED"}, {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED"}};
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
