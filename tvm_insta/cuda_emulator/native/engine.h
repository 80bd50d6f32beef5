// The emulated device: what the driver stand-in asks of it. See engine.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "device.h"

namespace emu {

struct Options {
  int order = 0;            // 0: threads and blocks in turn, 1: backwards, 2: shuffled by `seed`
  uint32_t seed = 1;
  bool late_copies = true;  // cp.async lands at the wait, not where it is issued
  bool races = true;        // find accesses that nothing orders
  bool counts = false;      // count what the block in the middle of a launch does
};
extern Options options;

// Device memory. What lies outside of all of it is out of bounds.
void add_memory(const void *at, size_t bytes, bool constant);
void remove_memory(const void *at);
bool holds_memory(const void *at, size_t bytes);

// Runs a grid; returns what was wrong, or an empty string.
std::string launch(const Kernel &kernel, const char *parameters, Dim grid, Dim block, uint32_t dynamic);

}  // namespace emu
