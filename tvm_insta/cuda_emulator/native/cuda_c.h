// CUDA C as C++: what TVM's kernels use of CUDA, on the emulated device. See cuda_c/translate.py.
//
// Pointers to global and shared memory are objects whose elements are read and written with the
// device's checks. Lines are those of the CUDA C; accesses have none.
#pragma once
#include <type_traits>

#include "device.h"

namespace emu {

inline Thread *current = nullptr;  // the thread that runs; every wait sets it anew

inline void wait_at_barrier(int line) {
  Thread &t = *current;
  barrier(t, line);
  current = &t;
}
inline uint32_t gather(uint32_t mask, int line, Work work, uint32_t a, uint32_t b = 0, uint32_t c = 0) {
  Thread &t = *current;
  uint32_t *in = t.warp->in[t.lane];
  in[0] = a; in[1] = b; in[2] = c;
  meet(t, mask, line, work);
  current = &t;
  return t.warp->out[t.lane][0];
}

// An element of memory.
template <class T> struct Reference {
  Space space;
  uint64_t at;
  operator T() const { return load<T, 1>(*current, space, at, 0).e[0]; }
  Reference &operator=(T value) {
    store<T, 1>(*current, space, at, Values<T, 1>{{value}}, 0);
    return *this;
  }
  Reference &operator=(const Reference &other) { return *this = (T)other; }
  Reference(Space s, uint64_t a) : space(s), at(a) {}
  Reference(const Reference &) = default;
  template <class V> Reference &operator+=(V value) { return *this = (T)((T)*this + value); }
};
template <class T> struct Pointer {
  Space space;
  uint64_t at;
  template <class I> Reference<T> operator[](I i) const { return {space, at + (uint64_t)(int64_t)i * sizeof(T)}; }
  template <class I> Pointer operator+(I i) const { return {space, at + (uint64_t)(int64_t)i * sizeof(T)}; }
  explicit operator uint64_t() const { return at; }
};
template <class T> Pointer<T> operator&(const Reference<T> &r) { return {r.space, r.at}; }

// (T *)p and *(T *)p.
template <class T> struct Cast {};
template <class U, class T> Pointer<std::conditional_t<std::is_void_v<U>, char, U>> operator->*(Cast<U>, Pointer<T> p) { return {p.space, p.at}; }
template <class U, class T> U *operator->*(Cast<U>, T *p) { return (U *)p; }
template <class U, class T> Reference<U> word(Pointer<T> p) { return {p.space, p.at}; }
template <class U, class T> U &word(T *p) { return *(U *)p; }

}  // namespace emu

#define EMU_VECTORS(T, N) \
  struct alignas(2 * sizeof(T)) N##2 { T x, y; }; \
  struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) N##4 { T x, y, z, w; }; \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; } \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(signed char, char)
EMU_VECTORS(unsigned char, uchar)
EMU_VECTORS(short, short)
EMU_VECTORS(unsigned short, ushort)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned, uint)
EMU_VECTORS(float, float)
EMU_VECTORS(double, double)
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };

struct half {  // binary16 in memory; arithmetic is not known here
  uint16_t bits;
  half() = default;
  explicit half(float value) : bits(emu::to_half(value)) {}
  explicit operator float() const { return emu::from_half(bits); }
};
inline half __float2half_rn(float value) { return half(value); }
inline float __half2float(half value) { return (float)value; }

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (emu::current->tid)
#define blockIdx (emu::current->block->id)
#define blockDim (emu::current->block->dim)
#define gridDim (emu::current->block->grid)
#define __syncthreads() emu::wait_at_barrier(__LINE__)

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __dp4a(int a, int b, int c) { return (int)(emu::dot_s8((uint32_t)a, (uint32_t)b) + (uint32_t)c); }
template <class T> inline uint64_t __cvta_generic_to_shared(emu::Pointer<T> p) { return p.at; }
#define EMU_EXTREMA(T) \
  inline T max(T a, T b) { return a < b ? b : a; } \
  inline T min(T a, T b) { return b < a ? b : a; }
EMU_EXTREMA(int)
EMU_EXTREMA(unsigned)
EMU_EXTREMA(int64_t)
EMU_EXTREMA(uint64_t)
inline float max(float a, float b) { return emu::larger(a, b, false); }
inline float min(float a, float b) { return emu::smaller(a, b, false); }
inline double max(double a, double b) { return emu::larger(a, b, false); }
inline double min(double a, double b) { return emu::smaller(a, b, false); }

inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) { emu::gather(mask, line, emu::nothing, 0); }
inline unsigned __ballot_sync(unsigned mask, int p, int line = __builtin_LINE()) { return emu::gather(mask, line, emu::vote_ballot, p != 0); }
inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) { return emu::gather(mask, line, emu::vote_any, p != 0) != 0; }
inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) { return emu::gather(mask, line, emu::vote_all, p != 0) != 0; }
// The third word is as nvcc makes it of `width`: the segment's mask, and the clamp.
#define EMU_SHUFFLE(NAME, WORK, CLAMP) \
  template <class T> inline T NAME(unsigned mask, T value, unsigned n, int width = 32, int line = __builtin_LINE()) { \
    static_assert(sizeof(T) == 4, "a shuffle moves 32 bits"); \
    uint32_t word; \
    memcpy(&word, &value, 4); \
    word = emu::gather(mask, line, emu::WORK, word, n, (uint32_t)(32 - width) << 8 | (CLAMP)); \
    memcpy(&value, &word, 4); \
    return value; \
  }
EMU_SHUFFLE(__shfl_sync, shuffle_idx, 31)
EMU_SHUFFLE(__shfl_down_sync, shuffle_down, 31)
EMU_SHUFFLE(__shfl_xor_sync, shuffle_bfly, 31)
EMU_SHUFFLE(__shfl_up_sync, shuffle_up, 0)
