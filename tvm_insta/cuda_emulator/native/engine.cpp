// A block of CUDA threads as fibres on one CPU thread: barriers, meetings of warps, asynchronous
// copies, bounds, alignment and races. Blocks run one after the other.
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "fibre.h"
#include "races.h"

#ifdef EMU_FIBRE_X86_64
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size emu_switch,.-emu_switch
.section .note.GNU-stack,"",@progbits
.text
)");
#endif

namespace emu {

Options options;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned char kPoison = 0xa5;

enum class Wait { kNone, kBarrier, kWarp, kLeft };

struct Copy { uint64_t to, from; uint32_t bytes, real; int line; };

struct Meeting {  // of lanes of one warp; several may be pending, for masks that share no lane
  uint32_t mask = 0, here = 0;
  int line = 0;
  Work work = nullptr;
  bool everyone = false;
};

struct WarpState {
  std::vector<Meeting> meetings;
  uint32_t live = 0, epoch = 0;
};

}  // namespace

struct ThreadState {
  Thread thread;
  Fibre fibre;
  Wait wait = Wait::kNone;
  int line = 0;
  uint32_t warp = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

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
uint32_t launches = 0;

Memory *memory_of(uintptr_t at, size_t bytes) {
  if (recent && at >= recent->begin && at + bytes <= recent->end && at + bytes >= at) return recent;
  auto next = memories.upper_bound(at);
  if (next == memories.begin()) return nullptr;
  Memory &found = std::prev(next)->second;
  if (at + bytes > found.end || at + bytes < at) return nullptr;
  return recent = &found;
}

struct Running {  // the block that runs
  Block block;
  const Kernel *kernel;
  const char *parameters;
  std::vector<char> shared;
  std::vector<Stamp> written, read;  // of shared memory
  std::vector<Warp> warps;
  std::vector<WarpState> warp_states;
  std::vector<ThreadState> threads;
  Fibre scheduler;
  ThreadState *current = nullptr;
  uint32_t alive = 0, waiting = 0, epoch = 0, number = 0;
  std::string error;
};
Running *running = nullptr;
std::vector<std::unique_ptr<Stack>> stacks;

void pause_thread(ThreadState &s) { switch_to(s.fibre, running->scheduler); }

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

void land(Thread &t, const Copy &c) {
  char buffer[16] = {0};
  if (c.real) memcpy(buffer, global_at(t, c.from, c.real, false, c.line), c.real);
  memcpy(shared_at(t, c.to, c.bytes, true, c.line), buffer, c.bytes);
}

void wake(uint32_t warp, uint32_t mask) {
  Running &r = *running;
  for (uint32_t lane = 0; lane < kLanes; ++lane)
    if (mask >> lane & 1) r.threads[warp * kLanes + lane].wait = Wait::kNone;
}

// Hold the meeting if everyone of it who still lives is there.
bool hold(Thread &t, uint32_t warp, size_t number) {
  Running &r = *running;
  WarpState &state = r.warp_states[warp];
  const Meeting m = state.meetings[number];
  if (m.here != (m.mask & state.live)) return false;
  if (m.everyone && m.here != ~0u) fail(t, m.line, "a matrix instruction without all 32 lanes of the warp");
  Warp &w = r.warps[warp];
  w.want = m.here;
  w.stranger = false;
  m.work(w);
  if (w.stranger) fail(t, m.line, "a shuffle reads from a lane that does not take part");
  state.meetings.erase(state.meetings.begin() + (long)number);
  ++state.epoch;
  wake(warp, m.here);
  return true;
}

void leave(ThreadState &s) {
  Running &r = *running;
  copy_commit(s.thread);
  copy_wait(s.thread, 0);
  s.wait = Wait::kLeft;
  --r.alive;
  WarpState &state = r.warp_states[s.warp];
  state.live &= ~(1u << s.thread.lane);
  for (size_t i = state.meetings.size(); i-- > 0;) hold(s.thread, s.warp, i);
  if (r.waiting && r.waiting == r.alive) {
    for (auto &other : r.threads)
      if (other.wait == Wait::kBarrier)
        fail(other.thread, other.line, "a barrier is not reached by all threads of the block");
  }
}

void entry() {
  ThreadState &s = *running->current;
  running->kernel->body(s.thread, running->parameters);
  leave(s);
  for (;;) pause_thread(s);
}

uint32_t next_random(uint32_t &state) {
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

void arrange(std::vector<uint32_t> &order, uint32_t &seed) {
  std::iota(order.begin(), order.end(), 0u);
  if (options.order == 1) std::reverse(order.begin(), order.end());
  if (options.order == 2)
    for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[next_random(seed) % (i + 1)]);
}

void prepare(Running &r, Dim id, uint32_t shared_bytes) {
  const Dim dim = r.block.dim;
  const uint32_t count = dim.x * dim.y * dim.z;
  r.block.id = id;
  r.shared.assign(shared_bytes, (char)kPoison);
  if (options.races) {
    r.written.assign(shared_bytes, Stamp{});
    r.read.assign(shared_bytes, Stamp{});
  }
  r.alive = count;
  r.waiting = r.epoch = 0;
  for (auto &w : r.warps) w.shared = r.shared.data();
  for (auto &w : r.warp_states) w = WarpState{};
  while (stacks.size() < count) stacks.push_back(std::make_unique<Stack>(kStackBytes));
  for (uint32_t i = 0; i < count; ++i) {
    ThreadState &s = r.threads[i];
    s.warp = i / kLanes;
    s.wait = Wait::kNone;
    s.open.clear();
    s.groups.clear();
    s.thread = {&r.block, &r.warps[s.warp], {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)}, i, i % kLanes,
                r.shared.data(), nullptr, 0, &s};
    r.warp_states[s.warp].live |= 1u << s.thread.lane;
    s.fibre.start(*stacks[i], entry);
  }
}

void run_block(Running &r, std::vector<uint32_t> &order, uint32_t &seed) {
  arrange(order, seed);
  while (r.alive && r.error.empty()) {
    bool ran = false;
    for (uint32_t i : order) {
      ThreadState &s = r.threads[i];
      if (s.wait != Wait::kNone) continue;
      ran = true;
      r.current = &s;
      switch_to(r.scheduler, s.fibre);
      if (!r.error.empty()) return;
    }
    if (ran) continue;
    for (auto &s : r.threads) {
      if (s.wait != Wait::kBarrier && s.wait != Wait::kWarp) continue;
      char text[160];
      snprintf(text, sizeof text, "no thread can go on: thread %u waits %s at line %d of the PTX", s.thread.linear,
               s.wait == Wait::kBarrier ? "at a barrier" : "for lanes of its warp", s.line);
      r.error = text;
      return;
    }
  }
}

}  // namespace

void fail(Thread &t, int line, const char *what) {
  char text[320];
  const Dim b = t.block->id;
  snprintf(text, sizeof text, "%s (line %d of the PTX, block %u,%u,%u, thread %u,%u,%u)", what, line, b.x, b.y, b.z, t.tid.x, t.tid.y, t.tid.z);
  running->error = text;
  for (;;) pause_thread(*running->current);
}

char *access(Thread &t, Space space, uint64_t address, uint32_t bytes, bool write, int line) {
  switch (space) {
    case kGlobal: return global_at(t, address, bytes, write, line);
    case kShared: return shared_at(t, address, bytes, write, line);
    case kLocal: return local_at(t, address, bytes, line);
    case kGeneric: break;
  }
  const uint64_t shared = (uint64_t)t.shared, local = (uint64_t)t.local;
  if (address >= shared && address < shared + running->shared.size()) return shared_at(t, address - shared, bytes, write, line);
  if (t.local && address >= local && address < local + t.local_bytes) return local_at(t, address - local, bytes, line);
  return global_at(t, address, bytes, write, line);
}

void barrier(Thread &t, int line) {
  Running &r = *running;
  ThreadState &s = *t.state;
  s.wait = Wait::kBarrier;
  s.line = line;
  ++r.waiting;
  if (r.waiting == r.alive) {
    for (auto &other : r.threads) {
      if (other.wait != Wait::kBarrier) fail(t, line, "a barrier is not reached by all threads of the block");
      if (other.line != line) fail(t, line, "threads of a block wait at different barriers");
    }
    r.waiting = 0;
    ++r.epoch;
    for (auto &other : r.threads) other.wait = Wait::kNone;
  }
  while (s.wait != Wait::kNone) pause_thread(s);
}

void meet(Thread &t, uint32_t mask, int line, Work work, bool everyone) {
  Running &r = *running;
  ThreadState &s = *t.state;
  WarpState &state = r.warp_states[s.warp];
  if (!(mask >> t.lane & 1)) fail(t, line, "a lane is not in the mask of its warp-wide instruction");
  size_t number = 0;
  for (; number < state.meetings.size(); ++number) {
    Meeting &m = state.meetings[number];
    if (!(m.mask & mask)) continue;
    if (m.mask != mask || m.line != line) fail(t, line, "lanes of a warp meet at different instructions");
    break;
  }
  if (number == state.meetings.size()) state.meetings.push_back({mask, 0, line, work, everyone});
  state.meetings[number].here |= 1u << t.lane;
  s.wait = Wait::kWarp;
  s.line = line;
  if (hold(t, s.warp, number)) return;
  while (s.wait != Wait::kNone) pause_thread(s);
}

void copy_async(Thread &t, uint64_t to, uint64_t from, uint32_t bytes, uint32_t real, int line) {
  if (real > bytes) fail(t, line, "cp.async reads more than it writes");
  const Copy c{to, from, bytes, real, line};
  if (options.late_copies) t.state->open.push_back(c);
  else land(t, c);
}
void copy_commit(Thread &t) {
  t.state->groups.push_back(std::move(t.state->open));
  t.state->open.clear();
}
void copy_wait(Thread &t, uint32_t keep) {
  auto &groups = t.state->groups;
  while (groups.size() > keep) {
    for (const Copy &c : groups.front()) land(t, c);
    groups.erase(groups.begin());
  }
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

std::string launch(const Kernel &kernel, const char *parameters, Dim grid, Dim block, uint32_t dynamic) {
  const uint32_t count = block.x * block.y * block.z;
  const uint32_t shared = dynamic ? kernel.dynamic_offset + dynamic : kernel.static_bytes;
  Running r;
  r.block = {{0, 0, 0}, grid, block};
  r.kernel = &kernel;
  r.parameters = parameters;
  r.threads.resize(count);
  r.warps.resize((count + kLanes - 1) / kLanes);
  r.warp_states.resize(r.warps.size());
  running = &r;
  ++launches;
  uint32_t seed = options.seed * 2654435761u | 1;
  std::vector<uint32_t> threads(count), blocks(grid.x * grid.y * grid.z);
  arrange(blocks, seed);
  for (uint32_t number : blocks) {
    r.number = number;
    prepare(r, {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y}, shared);
    run_block(r, threads, seed);
    if (!r.error.empty()) break;
  }
  running = nullptr;
  return r.error;
}

}  // namespace emu
