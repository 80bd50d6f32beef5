// Memory as threads see it: bounds, alignment, constants, and races.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>

#include "block.h"
#include "counts.h"

namespace emu {

namespace {

// Bytes of the stamps of a piece of device memory are taken when they are first written.
class Stamps {
 public:
  explicit Stamps(size_t count) : bytes_(count * sizeof(Stamp)) {
    void *got = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) abort();
    at_ = static_cast<Stamp *>(got);
  }
  ~Stamps() { munmap(at_, bytes_); }
  Stamps(const Stamps &) = delete;
  Stamp &operator[](size_t i) { return at_[i]; }

 private:
  Stamp *at_;
  size_t bytes_;
};

struct Memory {
  uintptr_t begin, end;
  bool constant;
  std::unique_ptr<Stamps> written;
};

std::map<uintptr_t, Memory> memories;
Memory *recent = nullptr;
Memory *memory_of(uintptr_t at, size_t bytes) {
  if (recent && at >= recent->begin && at + bytes <= recent->end && at + bytes >= at) return recent;
  auto next = memories.upper_bound(at);
  if (next == memories.begin()) return nullptr;
  Memory &found = std::prev(next)->second;
  if (at + bytes > found.end || at + bytes < at) return nullptr;
  return recent = &found;
}

Stamp stamp_of(const ThreadState &s) {
  const Running &r = *running;
  return {launches, r.number, r.epoch, r.warp_states[s.warp].epoch, (uint16_t)s.thread.linear, (uint16_t)s.warp};
}

[[noreturn]] void race(Thread &t, int line, const char *space, const char *what, const Stamp &other, uint64_t at) {
  char text[200];
  const char *who = other.thread == kMany ? "several threads" : nullptr;
  char one[64];
  if (!who) {
    if (other.block == running->number) snprintf(one, sizeof one, "thread %u", other.thread);
    else snprintf(one, sizeof one, "thread %u of block number %u", other.thread, other.block);
    who = one;
  }
  snprintf(text, sizeof text, "race in %s memory: %s by %s at byte %llu", space, what, who, (unsigned long long)at);
  fail(t, line, text);
}

void check_shared_races(Thread &t, uint64_t at, uint32_t bytes, bool write, int line) {
  Running &r = *running;
  const Stamp now = stamp_of(*t.state);
  for (uint64_t i = at; i < at + bytes; ++i) {
    if (races(r.written[i], now)) race(t, line, "shared", write ? "write after write" : "read after write", r.written[i], i);
    if (write) {
      if (races(r.read[i], now)) race(t, line, "shared", "write after read", r.read[i], i);
      r.written[i] = now;
    } else {
      add_reader(r.read[i], now);
    }
  }
}

// Only writers are remembered: a write after a read of another block is a read after a write when
// the blocks run in the other order.
void check_global_races(Thread &t, Memory &m, uintptr_t at, uint32_t bytes, bool write, int line) {
  if (!m.written) {
    if (!write) return;
    m.written = std::make_unique<Stamps>(m.end - m.begin);
  }
  const Stamp now = stamp_of(*t.state);
  for (uint64_t i = at - m.begin; i < at - m.begin + bytes; ++i) {
    Stamp &old = (*m.written)[i];
    if (races(old, now)) race(t, line, "global", write ? "write after write" : "read after write", old, i);
    if (write) old = now;
  }
}

char *shared_at(Thread &t, uint64_t at, uint32_t bytes, bool write, int line) {
  Running &r = *running;
  if (at > r.shared.size() || bytes > r.shared.size() - at) {
    char text[120];
    snprintf(text, sizeof text, "shared memory out of bounds: byte %llu of %zu", (unsigned long long)at, r.shared.size());
    fail(t, line, text);
  }
  if (at % bytes) fail(t, line, "misaligned address in shared memory");
  if (options.races) check_shared_races(t, at, bytes, write, line);
  return r.shared.data() + at;
}

char *global_at(Thread &t, uint64_t at, uint32_t bytes, bool write, int line) {
  Memory *m = memory_of(at, bytes);
  if (!m) {
    char text[120];
    snprintf(text, sizeof text, "global memory out of bounds: %u bytes at 0x%llx", bytes, (unsigned long long)at);
    fail(t, line, text);
  }
  if (at % bytes) fail(t, line, "misaligned address in global memory");
  if (write && m->constant) fail(t, line, "write to constant memory");
  if (options.races && !m->constant) check_global_races(t, *m, at, bytes, write, line);
  return reinterpret_cast<char *>(at);
}

char *local_at(Thread &t, uint64_t at, uint32_t bytes, int line) {
  if (at > t.local_bytes || bytes > t.local_bytes - at) fail(t, line, "local memory out of bounds");
  if (at % bytes) fail(t, line, "misaligned address in local memory");
  return t.local + at;
}

}  // namespace

void land(Thread &t, const Copy &c) {
  char buffer[16] = {0};
  if (c.real) memcpy(buffer, global_at(t, c.from, c.real, false, c.line), c.real);
  memcpy(shared_at(t, c.to, c.bytes, true, c.line), buffer, c.bytes);
}

char *access(Thread &t, Space space, uint64_t address, uint32_t bytes, bool write, int line) {
  if (space == kGeneric) {
    const uint64_t shared = (uint64_t)t.shared, local = (uint64_t)t.local;
    space = kGlobal;
    if (address >= shared && address < shared + running->shared.size()) {
      space = kShared;
      address -= shared;
    } else if (t.local && address >= local && address < local + t.local_bytes) {
      space = kLocal;
      address -= local;
    }
  }
  if (space == kLocal) return local_at(t, address, bytes, line);
  if (running->counted) count_touch({address, line, t.linear, bytes, space, write});
  return space == kShared ? shared_at(t, address, bytes, write, line) : global_at(t, address, bytes, write, line);
}

void add_memory(const void *at, size_t bytes, bool constant) {
  const auto begin = reinterpret_cast<uintptr_t>(at);
  recent = nullptr;
  memories[begin] = Memory{begin, begin + bytes, constant, nullptr};
}
void remove_memory(const void *at) {
  recent = nullptr;
  memories.erase(reinterpret_cast<uintptr_t>(at));
}
bool holds_memory(const void *at, size_t bytes) { return memory_of(reinterpret_cast<uintptr_t>(at), bytes); }

}  // namespace emu
