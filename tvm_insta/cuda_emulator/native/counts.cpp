// Memory accesses of a block to passes and sectors, see counts.h.
//
// The n-th access of a lane at a line of the kernel is taken to be one instruction with the n-th
// accesses of the other lanes there.
#include "counts.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "block.h"

namespace emu {

namespace {

constexpr uint32_t kBanks = 32, kWord = 4, kSector = 32;

struct Access {
  Touch touch;
  uint32_t number;  // of the thread's accesses at that line
};
std::vector<Access> accesses;
std::map<std::pair<uint32_t, int>, uint32_t> numbers;
std::string written;

struct Traffic { uint64_t wavefronts = 0, shared = 0, loads = 0, stores = 0, touched = 0, bytes = 0; };

// Passes of the lanes of one access. Those of 8 bytes go by halves of a warp, of 16 by quarters.
void add_shared(const Access *first, const Access *last, Traffic &sum) {
  const uint32_t at_once = kLanes * kWord / std::max(first->touch.bytes, kWord);
  for (uint32_t start = 0; start < kLanes; start += at_once) {
    std::set<uint64_t> words[kBanks];
    bool any = false;
    for (const Access *a = first; a != last; ++a) {
      const uint32_t lane = a->touch.thread % kLanes;
      if (lane < start || lane >= start + at_once) continue;
      any = true;
      for (uint64_t w = a->touch.at / kWord; w <= (a->touch.at + a->touch.bytes - 1) / kWord; ++w) words[w % kBanks].insert(w);
    }
    if (!any) continue;
    size_t most = 0;
    for (auto &bank : words) most = std::max(most, bank.size());
    sum.wavefronts += most;
    ++sum.shared;
  }
}

void add_global(const Access *first, const Access *last, std::set<uint64_t> &all, Traffic &sum) {
  std::set<uint64_t> sectors;
  for (const Access *a = first; a != last; ++a) {
    for (uint64_t s = a->touch.at / kSector; s <= (a->touch.at + a->touch.bytes - 1) / kSector; ++s) sectors.insert(s);
    sum.bytes += a->touch.bytes;
  }
  (first->touch.write ? sum.stores : sum.loads) += sectors.size();
  all.insert(sectors.begin(), sectors.end());
}

Traffic traffic() {
  auto key = [](const Access &a) { return std::make_tuple(a.touch.thread / kLanes, a.touch.line, a.touch.space, a.touch.write, a.number); };
  std::sort(accesses.begin(), accesses.end(), [&](const Access &a, const Access &b) { return key(a) < key(b); });
  Traffic sum;
  std::set<uint64_t> all;
  for (size_t i = 0; i < accesses.size();) {
    size_t end = i;
    while (end < accesses.size() && key(accesses[end]) == key(accesses[i])) ++end;
    const Access *first = &accesses[i], *last = first + (end - i);
    if (first->touch.space == kShared) add_shared(first, last, sum);
    else add_global(first, last, all, sum);
    i = end;
  }
  sum.touched = all.size();
  return sum;
}

}  // namespace

void count_touch(const Touch &touch) {
  accesses.push_back({touch, numbers[{touch.thread, touch.line * 4 + (touch.space == kShared) * 2 + touch.write}]++});
}

// Called when the counted block has ended.
void write_counts(const Running &r, uint32_t shared_bytes) {
  std::string line = r.kernel->name;
  auto add = [&](uint64_t number) { line += ' ' + std::to_string(number); };
  const Dim grid = r.block.grid, dim = r.block.dim;
  for (uint32_t n : {grid.x, grid.y, grid.z, dim.x, dim.y, dim.z, shared_bytes}) add(n);
  for (int unit = 0; unit < kUnits; ++unit) {
    uint64_t sum = 0;
    for (size_t first = 0; first < r.threads.size(); first += kLanes) {
      uint64_t most = 0;
      for (size_t i = first; i < std::min(r.threads.size(), first + kLanes); ++i) most = std::max<uint64_t>(most, r.threads[i].thread.steps[unit]);
      sum += most;
    }
    add(sum);
  }
  const Traffic t = traffic();
  for (uint64_t n : {t.wavefronts, t.shared, t.loads, t.stores, t.touched, t.bytes}) add(n);
  written += line + '\n';
  accesses.clear();
  numbers.clear();
}

std::string take_counts() {
  std::string taken;
  taken.swap(written);
  return taken;
}

}  // namespace emu
