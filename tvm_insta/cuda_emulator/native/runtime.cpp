// libcudart.so.13 of the emulated device: what libtvm_runtime_cuda.so asks of CUDA's run time.
//
// Device memory is memory of this process; streams run at once, and everything in order.
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
    default: return "cudaErrorNotSupported";
  }
}
const char *cudaGetErrorString(int code) { return code == kNoDevice ? "no emulated device was started" : emu_error(); }
int cudaGetLastError() { return kSuccess; }
int cudaPeekAtLastError() { return kSuccess; }

int cudaMalloc(void **at, size_t bytes) {
  const size_t room = (bytes / 256 + 1) * 256;
  *at = aligned_alloc(256, room);
  if (!*at) return kNoMemory;
  memset(*at, 0xa5, room);  // what nobody wrote looks like nothing
  emu_add_memory(*at, bytes);
  return kSuccess;
}
int cudaFree(void *at) {
  if (at) emu_remove_memory(at);
  free(at);
  return kSuccess;
}
int cudaMallocHost(void **at, size_t bytes) { *at = malloc(bytes ? bytes : 1); return *at ? kSuccess : kNoMemory; }
int cudaFreeHost(void *at) { free(at); return kSuccess; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = (size_t)1 << 34; return kSuccess; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *) {
  // cudaMemcpyKind: 1 to the device, 2 to the host, 3 within the device
  const bool to_device = kind == 1 || kind == 3, from_device = kind == 2 || kind == 3;
  if (bytes && to_device && !emu_holds_memory(to, bytes)) return emu_refuse(kInvalidValue, "a copy to what is no device memory");
  if (bytes && from_device && !emu_holds_memory(from, bytes)) return emu_refuse(kInvalidValue, "a copy from what is no device memory");
  memcpy(to, from, bytes);
  return kSuccess;
}
int cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes, void *stream) { return cudaMemcpyAsync(to, from, bytes, 3, stream); }
int cudaStreamCreate(void **stream) { *stream = stream; return kSuccess; }
int cudaStreamCreateWithFlags(void **stream, unsigned) { *stream = stream; return kSuccess; }
int cudaStreamDestroy(void *) { return kSuccess; }
int cudaStreamSynchronize(void *) { return kSuccess; }
int cudaStreamWaitEvent(void *, void *, unsigned) { return kSuccess; }
int cudaEventCreate(void **event) { *event = event; return kSuccess; }
int cudaEventDestroy(void *) { return kSuccess; }
int cudaEventRecord(void *, void *) { return kSuccess; }
int cudaEventSynchronize(void *) { return kSuccess; }
// There is no time on this device: a measurement is an error, not a number.
int cudaEventElapsedTime(float *, void *, void *) { return emu_refuse(kNotSupported, "the emulated device has no time"); }
int cudaStreamBeginCapture(void *, int) { return emu_refuse(kNotSupported, "the emulated device has no graphs"); }
int cudaStreamEndCapture(void *, void **) { return kNotSupported; }
int cudaGraphInstantiate(void **, void *, unsigned long long) { return kNotSupported; }
int cudaGraphLaunch(void *, void *) { return kNotSupported; }
int cudaGraphDestroy(void *) { return kSuccess; }
int cudaGraphExecDestroy(void *) { return kSuccess; }

}  // extern "C"
