// Who touched a byte last, and whether something orders that before what comes now.
//
// Two threads of a block are ordered by a barrier between them (`epoch`), two lanes of a warp also
// by a warp-wide instruction (`warp_epoch`). Nothing orders two blocks of a launch.
#pragma once
#include <cstdint>

namespace emu {

struct Stamp {
  uint32_t launch, block, epoch, warp_epoch;
  uint16_t thread, warp;
};
constexpr uint16_t kMany = 0xffff;  // several threads of the warp; several warps of the block

inline bool same_span(const Stamp &a, const Stamp &b) {
  return a.launch == b.launch && a.block == b.block && a.epoch == b.epoch;
}
// Whether `old` and `now` may happen in either order.
inline bool races(const Stamp &old, const Stamp &now) {
  if (old.launch != now.launch) return false;
  if (old.block != now.block) return true;
  if (old.epoch != now.epoch) return false;
  if (old.warp != now.warp) return true;  // kMany is no warp's number
  return old.thread != now.thread && old.warp_epoch == now.warp_epoch;
}
// A reader more.
inline void add_reader(Stamp &readers, const Stamp &now) {
  Stamp joined = now;
  if (same_span(readers, now)) {
    if (readers.warp != now.warp) joined.warp = joined.thread = kMany;
    else if (readers.warp_epoch == now.warp_epoch && readers.thread != now.thread) joined.thread = kMany;
  }
  readers = joined;
}

}  // namespace emu
