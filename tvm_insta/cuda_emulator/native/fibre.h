// A stack of one's own, and the switch between two of them.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>

#if defined(__x86_64__) && !defined(EMU_PORTABLE_FIBRES)
#define EMU_FIBRE_X86_64
#else
#include <ucontext.h>
#endif

namespace emu {

// Memory for a stack, with a page below it that nobody may touch.
class Stack {
 public:
  explicit Stack(size_t bytes) : bytes_(bytes + kGuard) {
    void *got = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (got == MAP_FAILED || mprotect(got, kGuard, PROT_NONE)) abort();
    base_ = static_cast<char *>(got);
  }
  ~Stack() { munmap(base_, bytes_); }
  Stack(const Stack &) = delete;
  Stack &operator=(const Stack &) = delete;
  char *low() const { return base_ + kGuard; }
  size_t size() const { return bytes_ - kGuard; }

 private:
  static constexpr size_t kGuard = 1 << 16;
  char *base_;
  size_t bytes_;
};

#ifdef EMU_FIBRE_X86_64
extern "C" void emu_switch(void **save, void *load);

struct Fibre {
  void *sp = nullptr;
  void start(Stack &stack, void (*entry)()) {
    auto top = reinterpret_cast<void **>(stack.low() + stack.size() - 64);
    *--top = nullptr;  // entry finds the stack as after a call
    *--top = reinterpret_cast<void *>(entry);
    for (int r = 0; r < 6; ++r) *--top = nullptr;
    sp = top;
  }
};
inline void switch_to(Fibre &from, Fibre &to) { emu_switch(&from.sp, to.sp); }
#else
struct Fibre {
  ucontext_t context;
  void start(Stack &stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack.low();
    context.uc_stack.ss_size = stack.size();
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};
inline void switch_to(Fibre &from, Fibre &to) { swapcontext(&from.context, &to.context); }
#endif

}  // namespace emu
