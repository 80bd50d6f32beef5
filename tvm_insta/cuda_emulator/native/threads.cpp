// What threads of a block wait for: barriers, meetings of warps, asynchronous copies; and failure.
#include <cstdio>

#include "block.h"
#include "counts.h"

namespace emu {

namespace {

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

}  // namespace

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

void fail(Thread &t, int line, const char *what) {
  char text[320];
  const Dim b = t.block->id;
  char place[48] = "";  // what C++ does for CUDA C between two lines has none
  if (line) snprintf(place, sizeof place, "line %d of the %s, ", line, running->kernel->language);
  snprintf(text, sizeof text, "%s (%sblock %u,%u,%u, thread %u,%u,%u)", what, place, b.x, b.y, b.z, t.tid.x, t.tid.y, t.tid.z);
  running->error = text;
  for (;;) pause_thread(*running->current);
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
  if (running->counted) {
    count_touch({to, line, t.linear, bytes, kShared, true});
    if (real) count_touch({from, line, t.linear, real, kGlobal, false});
  }
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

}  // namespace emu
