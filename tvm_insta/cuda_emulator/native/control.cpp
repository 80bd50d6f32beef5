// How Python starts and reads the emulated device, and what the stand-in for CUDA's run time asks of
// it. Codes are those of cudaError_t.
#include "counts.h"
#include "state.h"

using namespace emu::driver;
using emu::Graph;
using emu::Operation;
using emu::Stream;

extern "C" {

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

}  // extern "C"
