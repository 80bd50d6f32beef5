// libcudart.so.13 of the emulated device: what libtvm_runtime_cuda.so asks of CUDA's run time.
//
// Device memory is memory of this process; work is executed when it is submitted, in order, but for
// what a stream captures.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {

int emu_architecture();
uint32_t emu_shared_limit();
void emu_add_memory(const void *, size_t);
void emu_remove_memory(const void *);
int emu_holds_memory(const void *, size_t);
int emu_refuse(int, const char *);
const char *emu_error();
int emu_may_call(const char *);
void emu_count_host_copy();
int emu_may_wait(void *);
void *emu_create_stream(int);
void emu_destroy_stream(void *);
int emu_copy_within(void *, const void *, size_t, void *);
int emu_begin_capture(void *, int);
int emu_end_capture(void *, void **);
int emu_instantiate(void **, const void *);
int emu_launch_graph(void *, void *);
void emu_destroy_graph(void *);

// cudaError_t
enum { kSuccess = 0, kInvalidValue = 1, kNoMemory = 2, kNoDevice = 100, kNotSupported = 801 };

int cudaGetDeviceCount(int *count) {
  *count = emu_architecture() ? 1 : 0;
  return *count ? kSuccess : kNoDevice;
}
int cudaGetDevice(int *device) { *device = 0; return kSuccess; }
int cudaSetDevice(int device) { return device == 0 && emu_architecture() ? kSuccess : kNoDevice; }
int cudaDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {  // cudaDeviceAttr
    case 1: *value = 1024; break;                         // threads of a block
    case 2: case 3: *value = 1024; break;                 // along x, y
    case 4: *value = 64; break;                           // along z
    case 5: *value = 0x7fffffff; break;                   // blocks along x
    case 6: case 7: *value = 65535; break;                // along y, z
    case 8: *value = 48 << 10; break;                     // shared memory of a block
    case 10: *value = 32; break;                          // lanes of a warp
    case 12: *value = 65536; break;                       // registers of a block
    case 13: *value = 1000000; break;                     // kHz
    case 16: *value = 1; break;                           // multiprocessors
    case 38: *value = 1 << 20; break;                     // L2 cache
    case 75: *value = emu_architecture() / 10; break;
    case 76: *value = emu_architecture() % 10; break;
    case 97: *value = (int)emu_shared_limit(); break;     // shared memory, opted in
    default: *value = 0; return emu_refuse(kInvalidValue, "a device attribute is not known to the emulator");
  }
  return kSuccess;
}
// The name comes first in cudaDeviceProp; the rest is not asked for by TVM.
int cudaGetDeviceProperties(char *properties, int) {
  snprintf(properties, 256, "emulated sm_%d", emu_architecture());
  return kSuccess;
}
const char *cudaGetErrorName(int code) {
  switch (code) {
    case kSuccess: return "cudaSuccess";
    case kInvalidValue: return "cudaErrorInvalidValue";
    case kNoMemory: return "cudaErrorMemoryAllocation";
    case kNoDevice: return "cudaErrorNoDevice";
    case 900: return "cudaErrorStreamCaptureUnsupported";
    case 901: return "cudaErrorStreamCaptureInvalidated";
    case 906: return "cudaErrorStreamCaptureImplicit";
    default: return "cudaErrorNotSupported";
  }
}
const char *cudaGetErrorString(int code) { return code == kNoDevice ? "no emulated device was started" : emu_error(); }
int cudaGetLastError() { return kSuccess; }
int cudaPeekAtLastError() { return kSuccess; }

int cudaMalloc(void **at, size_t bytes) {
  if (const int code = emu_may_call("memory is allocated")) return code;
  const size_t room = (bytes / 256 + 1) * 256;
  *at = aligned_alloc(256, room);
  if (!*at) return kNoMemory;
  memset(*at, 0xa5, room);  // what nobody wrote looks like nothing
  emu_add_memory(*at, bytes);
  return kSuccess;
}
int cudaFree(void *at) {
  if (const int code = emu_may_call("memory is freed")) return code;
  if (at) emu_remove_memory(at);
  free(at);
  return kSuccess;
}
int cudaMallocHost(void **at, size_t bytes) { *at = malloc(bytes ? bytes : 1); return *at ? kSuccess : kNoMemory; }
int cudaFreeHost(void *at) { free(at); return kSuccess; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = (size_t)1 << 34; return kSuccess; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
  // cudaMemcpyKind: 1 to the device, 2 to the host, 3 within the device
  const bool to_device = kind == 1 || kind == 3, from_device = kind == 2 || kind == 3;
  if (bytes && to_device && !emu_holds_memory(to, bytes)) return emu_refuse(kInvalidValue, "a copy to what is no device memory");
  if (bytes && from_device && !emu_holds_memory(from, bytes)) return emu_refuse(kInvalidValue, "a copy from what is no device memory");
  if (kind == 3) return bytes ? emu_copy_within(to, from, bytes, stream) : kSuccess;
  // A copy from or to memory of the host that is not pinned waits for the stream.
  if (const int code = emu_may_wait(stream)) return code;
  memcpy(to, from, bytes);
  emu_count_host_copy();
  return kSuccess;
}
int cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes, void *stream) { return cudaMemcpyAsync(to, from, bytes, 3, stream); }
int cudaStreamCreate(void **stream) { *stream = emu_create_stream(1); return kSuccess; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = emu_create_stream(!(flags & 1)); return kSuccess; }
int cudaStreamDestroy(void *stream) { emu_destroy_stream(stream); return kSuccess; }
int cudaStreamSynchronize(void *stream) { return emu_may_wait(stream); }
int cudaStreamWaitEvent(void *stream, void *, unsigned) { return emu_may_wait(stream); }
int cudaEventCreate(void **event) { *event = event; return kSuccess; }
int cudaEventDestroy(void *) { return kSuccess; }
int cudaEventRecord(void *, void *stream) { return emu_may_wait(stream); }
int cudaEventSynchronize(void *) { return kSuccess; }
// There is no time on this device: a measurement is an error, not a number.
int cudaEventElapsedTime(float *, void *, void *) { return emu_refuse(kNotSupported, "the emulated device has no time"); }
int cudaStreamBeginCapture(void *stream, int mode) { return emu_begin_capture(stream, mode); }
int cudaStreamEndCapture(void *stream, void **graph) { return emu_end_capture(stream, graph); }
int cudaGraphInstantiate(void **executable, void *graph, unsigned long long) { return emu_instantiate(executable, graph); }
int cudaGraphLaunch(void *executable, void *stream) { return emu_launch_graph(executable, stream); }
int cudaGraphDestroy(void *graph) { emu_destroy_graph(graph); return kSuccess; }
int cudaGraphExecDestroy(void *executable) { emu_destroy_graph(executable); return kSuccess; }

}  // extern "C"
