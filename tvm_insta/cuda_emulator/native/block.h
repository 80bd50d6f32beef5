// The block of threads that runs, and what its threads wait for: shared by the files of the engine.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine.h"
#include "fibre.h"
#include "races.h"

namespace emu {

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

struct ThreadState {
  Thread thread;
  Fibre fibre;
  Wait wait = Wait::kNone;
  int line = 0;
  uint32_t warp = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

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
  bool counted = false;  // this block is the one that counts, see counts.h
  std::string error;
};
extern Running *running;  // null between launches
extern uint32_t launches;  // so far; the running one included

inline void pause_thread(ThreadState &s) { switch_to(s.fibre, running->scheduler); }
// A thread has left the kernel: whoever waited for it may go on, or never can.
void leave(ThreadState &s);
// What cp.async asked for: the bytes arrive.
void land(Thread &t, const Copy &c);
// What the block did, which has ended.
void write_counts(const Running &r, uint32_t shared_bytes);

}  // namespace emu
