// Streams of the emulated device: work is executed at once, or recorded while a stream captures.
//
// The stream without a handle (nullptr) is CUDA's legacy stream. Source of the rules: CUDA C++
// Programming Guide, "Creating a Graph Using Stream Capture".
#pragma once
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "engine.h"

namespace emu {

// cudaError_t and CUresult have the same numbers for these.
enum CaptureError {
  kCaptureUnsupported = 900, kCaptureInvalidated = 901, kCaptureUnmatched = 903,
  kCaptureImplicit = 906, kCaptureWrongThread = 908,
};
enum class Mode { kGlobal, kThreadLocal, kRelaxed };  // cudaStreamCaptureMode

struct Operation {  // a launch, or a copy within the device where there is no kernel
  const Kernel *kernel = nullptr;
  std::vector<uint64_t> parameters;
  Dim grid{}, block{};
  uint32_t shared = 0;
  void *to = nullptr;
  const void *from = nullptr;
  size_t bytes = 0;
};

struct Graph { std::vector<Operation> operations; };

struct Stream {
  bool blocking = true;  // waits for the legacy stream, and the legacy stream for it
  bool capturing = false;
  std::string invalid;  // why what is captured is lost, if it is
  Mode mode = Mode::kGlobal;
  std::thread::id thread;
  Graph graph;
};

// Why a call that does not work on a stream as such, such as an allocation, is not allowed now; an
// empty string if it is.
std::string unsafe_call(const char *what);
// What to do with work for a stream: whether it is to be recorded, or why it is refused.
enum class Way { kExecute, kRecord, kRefuse };
Way way_of(Stream *stream, std::string &why, int &code);
// A call that waits for a stream, which a capture does not allow; what is captured is lost.
bool may_wait(Stream *stream, std::string &why, int &code);

Stream *create_stream(bool blocking);
void destroy_stream(Stream *stream);
int begin_capture(Stream *stream, Mode mode, std::string &why);
int end_capture(Stream *stream, Graph **graph, std::string &why);

}  // namespace emu
