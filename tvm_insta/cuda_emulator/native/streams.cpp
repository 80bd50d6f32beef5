// Streams and what they capture, see streams.h.
#include "streams.h"

#include <memory>

namespace emu {

namespace {

std::vector<std::unique_ptr<Stream>> streams;

bool known(const Stream *stream) {
  for (auto &each : streams)
    if (each.get() == stream) return true;
  return false;
}

}  // namespace

std::string unsafe_call(const char *what) {
  for (auto &stream : streams) {
    if (!stream->capturing || stream->mode == Mode::kRelaxed) continue;
    if (stream->mode == Mode::kThreadLocal && stream->thread != std::this_thread::get_id()) continue;
    return stream->invalid = std::string(what) + " while a stream is being captured, in another mode than relaxed";
  }
  return "";
}

Way way_of(Stream *stream, std::string &why, int &code) {
  if (!stream) {
    for (auto &each : streams) {
      if (!each->capturing || !each->blocking) continue;
      code = kCaptureImplicit;
      why = each->invalid = "work for the legacy stream while a stream that waits for it is being captured";
      return Way::kRefuse;
    }
    return Way::kExecute;
  }
  if (!known(stream)) {
    code = 400;  // cudaErrorInvalidResourceHandle
    why = "work for a stream that does not exist";
    return Way::kRefuse;
  }
  if (!stream->capturing) return Way::kExecute;
  if (stream->invalid.empty()) return Way::kRecord;
  code = kCaptureInvalidated;
  why = "work for a stream whose capture has failed before: " + stream->invalid;
  return Way::kRefuse;
}

bool may_wait(Stream *stream, std::string &why, int &code) {
  const Way way = way_of(stream, why, code);
  if (way == Way::kExecute) return true;
  if (way == Way::kRecord) {
    code = kCaptureUnsupported;
    why = stream->invalid = "a wait for a stream that is being captured, or an event of it";
  }
  return false;
}

Stream *create_stream(bool blocking) {
  streams.push_back(std::make_unique<Stream>());
  streams.back()->blocking = blocking;
  return streams.back().get();
}

void destroy_stream(Stream *stream) {
  for (size_t i = 0; i < streams.size(); ++i)
    if (streams[i].get() == stream) {
      streams.erase(streams.begin() + (long)i);
      return;
    }
}

int begin_capture(Stream *stream, Mode mode, std::string &why) {
  if (!stream || !known(stream)) {
    why = "a capture of the legacy stream, or of one that does not exist";
    return kCaptureUnsupported;
  }
  if (stream->capturing) {
    why = "a capture of a stream that is being captured";
    return kCaptureUnsupported;
  }
  stream->capturing = true;
  stream->invalid.clear();
  stream->mode = mode;
  stream->thread = std::this_thread::get_id();
  stream->graph = Graph{};
  return 0;
}

int end_capture(Stream *stream, Graph **graph, std::string &why) {
  *graph = nullptr;
  if (!stream || !known(stream) || !stream->capturing) {
    why = "the end of a capture that was not begun";
    return kCaptureUnmatched;
  }
  if (stream->mode != Mode::kRelaxed && stream->thread != std::this_thread::get_id()) {
    why = "the end of a capture in another thread than its beginning";
    return kCaptureWrongThread;
  }
  stream->capturing = false;
  if (!stream->invalid.empty()) {
    why = "a capture ends that failed before: " + stream->invalid;
    return kCaptureInvalidated;
  }
  *graph = new Graph(std::move(stream->graph));
  stream->graph = Graph{};
  return 0;
}

}  // namespace emu
