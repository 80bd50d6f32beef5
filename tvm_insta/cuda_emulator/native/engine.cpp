// A block of CUDA threads as fibres on one CPU thread. Blocks run one after the other.
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>

#include "block.h"

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
Running *running = nullptr;
uint32_t launches = 0;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned char kPoison = 0xa5;

std::vector<std::unique_ptr<Stack>> stacks;

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
                r.shared.data(), nullptr, 0, &s, {}};
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
      snprintf(text, sizeof text, "no thread can go on: thread %u waits %s at line %d of the %s", s.thread.linear,
               s.wait == Wait::kBarrier ? "at a barrier" : "for lanes of its warp", s.line, r.kernel->language);
      r.error = text;
      return;
    }
  }
}

}  // namespace

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
    r.counted = options.counts && number == blocks.size() / 2;
    prepare(r, {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y}, shared);
    run_block(r, threads, seed);
    if (!r.error.empty()) break;
    if (r.counted) write_counts(r, shared);
  }
  running = nullptr;
  return r.error;
}

}  // namespace emu
