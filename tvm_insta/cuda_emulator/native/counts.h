// What the block in the middle of a launch does, where `options.counts` asks for it.
#pragma once
#include <cstdint>
#include <string>

#include "device.h"

namespace emu {

struct Touch {  // of memory, by one thread
  uint64_t at;
  int line;
  uint32_t thread, bytes;
  Space space;
  bool write;
};
void count_touch(const Touch &touch);

// A line for each launch since the last call: kernel, grid, block, bytes of shared memory,
// instructions by unit, then wavefronts and accesses of shared memory, sectors of global memory
// loaded, stored, and touched in all, and bytes of global memory.
std::string take_counts();

}  // namespace emu
