// What the stand-in for the driver keeps between calls. The files of it are compiled as one.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>

#include "engine.h"
#include "streams.h"

namespace emu {
namespace driver {

// CUresult
enum { kSuccess = 0, kInvalidValue = 1, kNoDevice = 100, kInvalidImage = 200, kNoBinary = 209, kNotFound = 500, kLaunchFailed = 719, kNotSupported = 801 };
constexpr uint32_t kStaticShared = 48 << 10;

using Translate = int (*)(const void *image, char *path, int room);

inline std::mutex lock;
inline int architecture = 0;  // 90 for sm_90; 0: there is no device
inline uint32_t shared_limit = kStaticShared;
inline Translate translate = nullptr;
inline std::string error, names;
inline uint64_t launches = 0, graph_launches = 0, host_copies = 0;
inline bool alone = false;  // without Python, which reads `error`

inline int refuse(int code, const std::string &why) {
  error = why;
  if (alone && (code == kInvalidImage || code == kLaunchFailed)) fprintf(stderr, "the emulated device says: %s\n", why.c_str());
  return code;
}

// The kernel or copy itself; the lock is held.
inline int execute(const Operation &o) {
  if (!o.kernel) {
    if (!holds_memory(o.to, o.bytes) || !holds_memory(o.from, o.bytes)) return refuse(kInvalidValue, "a copy from or to what is no device memory any more");
    memmove(o.to, o.from, o.bytes);
    return kSuccess;
  }
  names += o.kernel->name;
  names += '\n';
  const std::string failed = launch(*o.kernel, reinterpret_cast<const char *>(o.parameters.data()), o.grid, o.block, o.shared);
  return failed.empty() ? kSuccess : refuse(kLaunchFailed, std::string(o.kernel->name) + ": " + failed);
}
// Executes work for a stream, or records it; the lock is held.
inline int submit(Stream *stream, Operation &&operation, bool *executed = nullptr) {
  std::string why;
  int code = kSuccess;
  const Way way = way_of(stream, why, code);
  if (executed) *executed = way == Way::kExecute;
  if (way == Way::kRefuse) return refuse(code, why);
  if (way == Way::kExecute) return execute(operation);
  stream->graph.operations.push_back(std::move(operation));
  return kSuccess;
}

}  // namespace driver
}  // namespace emu
