// What the lanes of a warp do together, once all of them are there: the last to come works for all.
#include <algorithm>

#include "device.h"

namespace emu {

void nothing(Warp &) {}

namespace {

template <class Choose> void shuffle(Warp &w, Choose choose) {
  for (uint32_t l = 0; l < kLanes; ++l) {
    if (!(w.want >> l & 1)) continue;
    const uint32_t amount = w.in[l][1] & 31, segment = w.in[l][2] >> 8 & 31, clamp = w.in[l][2] & 31;
    const int low = (int)(l & segment), high = low | (int)(clamp & ~segment);
    int from = 0;
    const bool inside = choose((int)l, (int)amount, low, high, (int)segment, from);
    if (!inside) from = (int)l;
    if (!(w.want >> from & 1)) w.stranger = true;
    w.out[l][0] = w.in[from][0];
    w.out[l][1] = inside;
  }
}
template <class Join> void reduce(Warp &w, Join join) {
  bool first = true;
  uint32_t sum = 0;
  for (uint32_t l = 0; l < kLanes; ++l) {
    if (!(w.want >> l & 1)) continue;
    sum = first ? w.in[l][0] : join(sum, w.in[l][0]);
    first = false;
  }
  for (uint32_t l = 0; l < kLanes; ++l)
    if (w.want >> l & 1) w.out[l][0] = sum;
}
uint32_t ballot(const Warp &w) {
  uint32_t mask = 0;
  for (uint32_t l = 0; l < kLanes; ++l)
    if ((w.want >> l & 1) && w.in[l][0]) mask |= 1u << l;
  return mask;
}
void answer(Warp &w, uint32_t value) {
  for (uint32_t l = 0; l < kLanes; ++l)
    if (w.want >> l & 1) w.out[l][0] = value;
}

}  // namespace

void shuffle_up(Warp &w) {
  // For `up` the clamp is a lower bound, as the PTX ISA has it.
  shuffle(w, [](int l, int n, int low, int, int, int &from) { return (from = l - n) >= low; });
}
void shuffle_down(Warp &w) {
  shuffle(w, [](int l, int n, int, int high, int, int &from) { return (from = l + n) <= high; });
}
void shuffle_bfly(Warp &w) {
  shuffle(w, [](int l, int n, int, int high, int, int &from) { return (from = l ^ n) <= high; });
}
void shuffle_idx(Warp &w) {
  shuffle(w, [](int, int n, int low, int high, int segment, int &from) { return (from = low | (n & ~segment)) <= high; });
}
void vote_ballot(Warp &w) { answer(w, ballot(w)); }
void vote_any(Warp &w) { answer(w, ballot(w) != 0); }
void vote_all(Warp &w) { answer(w, ballot(w) == w.want); }
void vote_uni(Warp &w) { answer(w, ballot(w) == w.want || ballot(w) == 0); }
void reduce_add(Warp &w) { reduce(w, [](uint32_t a, uint32_t b) { return a + b; }); }
void reduce_min(Warp &w) { reduce(w, [](uint32_t a, uint32_t b) { return std::min(a, b); }); }
void reduce_max(Warp &w) { reduce(w, [](uint32_t a, uint32_t b) { return std::max(a, b); }); }
void reduce_min_signed(Warp &w) {
  reduce(w, [](uint32_t a, uint32_t b) { return (uint32_t)std::min((int32_t)a, (int32_t)b); });
}
void reduce_max_signed(Warp &w) {
  reduce(w, [](uint32_t a, uint32_t b) { return (uint32_t)std::max((int32_t)a, (int32_t)b); });
}
void reduce_and(Warp &w) { reduce(w, [](uint32_t a, uint32_t b) { return a & b; }); }
void reduce_or(Warp &w) { reduce(w, [](uint32_t a, uint32_t b) { return a | b; }); }
void reduce_xor(Warp &w) { reduce(w, [](uint32_t a, uint32_t b) { return a ^ b; }); }

}  // namespace emu
