// What translated kernels call: threads, memory, warps, and the arithmetic that C++ does not have.
//
// A thread of the emulated device is a fibre, see engine.cpp. A check that fails never returns.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emu {

constexpr uint32_t kLanes = 32;
constexpr int kWordsIn = 12, kWordsOut = 4;
constexpr int kUnits = 11;  // of a multiprocessor, see ptx/classes.py

struct Dim { uint32_t x, y, z; };
struct Block;
struct ThreadState;

// Lanes that meet at a warp-wide instruction give words in `in` and find their result in `out`.
struct Warp {
  uint32_t in[kLanes][kWordsIn], out[kLanes][kWordsOut];
  uint32_t want;        // lanes of the meeting that is being held
  bool stranger;        // a lane read from one that was not there
  const char *shared;   // memory of the block
};

struct Thread {
  Block *block;
  Warp *warp;
  Dim tid;
  uint32_t linear, lane;
  char *shared, *local;
  uint32_t local_bytes;
  ThreadState *state;
  uint32_t steps[kUnits];  // instructions executed, where kernels are built to count them
};

struct Block {
  Dim id, grid, dim;
};

struct Parameter { uint32_t offset, size; };
struct Kernel {
  const char *name;
  void (*body)(Thread &, const char *);
  const Parameter *parameters;
  uint32_t parameter_count, static_bytes, dynamic_offset, local_bytes, max_threads;
  const char *language;  // of the lines in messages
};
struct Global { unsigned char *address; uint64_t size; int constant; };

enum Space { kGlobal, kShared, kLocal, kGeneric };
using Work = void (*)(Warp &);

// Checked address of `bytes` bytes in this process.
char *access(Thread &t, Space space, uint64_t address, uint32_t bytes, bool write, int line);
void barrier(Thread &t, int line);
// Lanes of `mask` wait for each other; `everyone`: none of the 32 may have left the kernel.
void meet(Thread &t, uint32_t mask, int line, Work work, bool everyone = false);
void copy_async(Thread &t, uint64_t to, uint64_t from, uint32_t bytes, uint32_t real, int line);
void copy_commit(Thread &t);
void copy_wait(Thread &t, uint32_t keep);
[[noreturn]] void fail(Thread &t, int line, const char *what);

#ifdef EMU_COUNTS
#define EMU_STEP(unit, count) t.steps[unit] += count;
#else
#define EMU_STEP(unit, count)
#endif

inline void local_memory(Thread &t, char *memory, uint32_t bytes) {
  memset(memory, 0xa5, bytes);
  t.local = memory;
  t.local_bytes = bytes;
}

template <class T, int N> struct Values { T e[N]; };
template <class T, int N>
inline Values<T, N> load(Thread &t, Space space, uint64_t address, int line) {
  Values<T, N> v;
  memcpy(&v, access(t, space, address, sizeof v, false, line), sizeof v);
  return v;
}
template <class T, int N>
inline void store(Thread &t, Space space, uint64_t address, const Values<T, N> &v, int line) {
  memcpy(access(t, space, address, sizeof v, true, line), &v, sizeof v);
}
template <class T> inline T parameter(const char *parameters, uint32_t offset) {
  T v;
  memcpy(&v, parameters + offset, sizeof v);
  return v;
}

// ---- numbers
inline float number_of(uint32_t v) { float f; memcpy(&f, &v, 4); return f; }
inline double number_of(uint64_t v) { double f; memcpy(&f, &v, 8); return f; }
inline uint32_t bits_of(float f) {  // arithmetic gives one NaN only
  if (f != f) return 0x7fffffffu;
  uint32_t v; memcpy(&v, &f, 4); return v;
}
inline uint64_t bits_of(double f) { uint64_t v; memcpy(&v, &f, 8); return v; }
template <class T> inline bool not_ordered(T a, T b) { return a != a || b != b; }
template <class T> inline T least(T a, T b) { return a < b ? a : b; }
template <class T> inline T smaller(T a, T b, bool keep_nan) {
  if (a != a || b != b) return keep_nan || (a != a && b != b) ? (T)NAN : a != a ? b : a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T> inline T larger(T a, T b, bool keep_nan) {
  if (a != a || b != b) return keep_nan || (a != a && b != b) ? (T)NAN : a != a ? b : a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
// Out of range becomes the nearest, and NaN 0, as in the PTX ISA.
template <class T, class F> inline T to_integer(F v) {
  constexpr int bits = sizeof(T) * 8;
  constexpr bool is_signed = T(-1) < T(0);
  constexpr T least_value = is_signed ? (T)((uint64_t)1 << (bits - 1)) : (T)0;
  constexpr T most = (T)~least_value;
  const F above = (F)std::ldexp(1.0, is_signed ? bits - 1 : bits);
  if (v != v) return 0;
  if (v >= above) return most;
  if (v < (is_signed ? -above : (F)0)) return least_value;
  return (T)v;
}
inline float from_half(uint16_t h) {
  const uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, rest = h & 1023;
  if (exponent == 31) return number_of(sign | 0x7f800000u | rest << 13);
  const float size = std::ldexp((float)(exponent ? rest | 1024 : rest), (exponent ? (int)exponent : 1) - 25);
  return sign ? -size : size;
}
inline uint16_t to_half(float f) {
  uint32_t v; memcpy(&v, &f, 4);
  const uint16_t sign = (uint16_t)(v >> 16 & 0x8000u);
  const float size = std::fabs(f);
  if (f != f) return 0x7fff;
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size == 0) return sign;
  int exponent = 0;
  std::frexp(size, &exponent);  // size = m * 2^exponent, 0.5 <= m < 1
  const int unit = (exponent < -13 ? -13 : exponent) - 11;  // one step of the result is 2^unit
  const float steps = std::nearbyint(std::ldexp(size, -unit));
  if (exponent < -13) return sign | (uint16_t)steps;
  // 1024 to 2048 steps; 2048 carries into the exponent by itself.
  return sign | (uint16_t)(((uint32_t)(unit + 24) << 10) + (uint32_t)steps);
}

// ---- integers
template <class T> inline T quotient(Thread &t, int line, T a, T b) {
  if (b == 0) fail(t, line, "division by zero");
  if (T(-1) < T(0) && b == T(-1)) return (T)(0 - (uint64_t)a);
  return a / b;
}
template <class T> inline T remainder_of(Thread &t, int line, T a, T b) {
  if (b == 0) fail(t, line, "division by zero");
  if (T(-1) < T(0) && b == T(-1)) return 0;
  return a % b;
}
inline uint16_t high_half(uint16_t a, uint16_t b) { return (uint16_t)((uint32_t)a * b >> 16); }
inline int16_t high_half(int16_t a, int16_t b) { return (int16_t)((int32_t)a * b >> 16); }
inline uint32_t high_half(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
inline int32_t high_half(int32_t a, int32_t b) { return (int32_t)((int64_t)a * b >> 32); }
inline uint64_t high_half(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
inline int64_t high_half(int64_t a, int64_t b) { return (int64_t)((__int128)a * b >> 64); }
template <class T> inline T shift_left(T a, uint32_t n) { return n >= sizeof(T) * 8 ? 0 : (T)(a << n); }
template <class T> inline T shift_right(T a, uint32_t n) {
  return n >= sizeof(T) * 8 ? (a < T(0) ? T(-1) : T(0)) : (T)(a >> n);
}
inline uint32_t ones(uint32_t a) { return (uint32_t)__builtin_popcount(a); }
inline uint32_t ones(uint64_t a) { return (uint32_t)__builtin_popcountll(a); }
inline uint32_t leading_zeros(uint32_t a) { return a ? (uint32_t)__builtin_clz(a) : 32; }
inline uint32_t leading_zeros(uint64_t a) { return a ? (uint32_t)__builtin_clzll(a) : 64; }
template <class T> inline T reversed(T a) {
  T r = 0;
  for (unsigned i = 0; i < sizeof(T) * 8; ++i) r = (T)(r << 1 | (a >> i & 1));
  return r;
}
// Bits at and above the width repeat the sign of the field's last bit, or of the value's, as the
// PTX ISA has it.
template <class T> inline T field(T a, uint32_t at, uint32_t length) {
  constexpr uint32_t top = sizeof(T) * 8 - 1;
  at &= 255; length &= 255;
  const uint32_t last = least<uint32_t>(at + length - 1, top);
  const bool sign = T(-1) < T(0) && length && (a >> last & 1);
  T r = 0;
  for (uint32_t i = 0; i <= top; ++i) {
    const bool bit = i < length && at + i <= top ? (a >> (at + i) & 1) : sign;
    r |= (T)((T)bit << i);
  }
  return r;
}
template <class T> inline T insert(T a, T b, uint32_t at, uint32_t length) {
  at &= 255; length &= 255;
  for (uint32_t i = 0; i < length && at + i < sizeof(T) * 8; ++i)
    b = (T)((b & ~((T)1 << (at + i))) | ((a >> i & 1) << (at + i)));
  return b;
}
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t r = 0;
  for (uint32_t i = 0; i < 8; ++i)
    if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return r;
}
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t choice) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t s = choice >> 4 * i & 15;
    uint32_t byte = bytes >> 8 * (s & 7) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << 8 * i;
  }
  return r;
}
template <class A, class B> inline uint32_t dot_bytes(uint32_t a, uint32_t b) {
  uint32_t sum = 0;
  for (int i = 0; i < 32; i += 8) sum += (uint32_t)((int32_t)(A)(a >> i) * (int32_t)(B)(b >> i));
  return sum;
}
template <class A, class B> inline uint32_t dot_halves(uint32_t a, uint32_t b) {
  return (uint32_t)((int32_t)(A)a * (int32_t)(B)b) +
         (uint32_t)((int32_t)(A)(a >> 16) * (int32_t)(B)(b >> 8));
}

// ---- warps: the last lane that comes does the work for all
void nothing(Warp &);
void shuffle_up(Warp &);
void shuffle_down(Warp &);
void shuffle_bfly(Warp &);
void shuffle_idx(Warp &);
void vote_ballot(Warp &);
void vote_any(Warp &);
void vote_all(Warp &);
void vote_uni(Warp &);
void reduce_add(Warp &);
void reduce_min(Warp &);
void reduce_max(Warp &);
void reduce_min_signed(Warp &);
void reduce_max_signed(Warp &);
void reduce_and(Warp &);
void reduce_or(Warp &);
void reduce_xor(Warp &);

inline uint32_t dot_and(uint32_t a, uint32_t b) { return ones(a & b); }
inline uint32_t dot_xor(uint32_t a, uint32_t b) { return ones(a ^ b); }
inline uint32_t dot_s8(uint32_t a, uint32_t b) { return dot_bytes<int8_t, int8_t>(a, b); }
inline uint32_t dot_u8s8(uint32_t a, uint32_t b) { return dot_bytes<uint8_t, int8_t>(a, b); }

// mma.m16n8k*: fragments by the tables of the PTX ISA, in words of 32 bits along K. A is 16 rows of
// 4 * Halves words, B 8 columns of as many; a lane holds C at rows l / 4 and l / 4 + 8, columns
// 2 (l % 4) and the next.
template <uint32_t (*Dot)(uint32_t, uint32_t), int Halves> void mma_16x8(Warp &w) {
  uint32_t a[16][4 * Halves], b[8][4 * Halves];
  for (uint32_t l = 0; l < kLanes; ++l)
    for (int h = 0; h < Halves; ++h) {
      const uint32_t word = l % 4 + 4 * h;
      a[l / 4][word] = w.in[l][2 * h];
      a[l / 4 + 8][word] = w.in[l][2 * h + 1];
      b[l / 4][word] = w.in[l][2 * Halves + h];
    }
  for (uint32_t l = 0; l < kLanes; ++l)
    for (int i = 0; i < 4; ++i) {
      const uint32_t row = l / 4 + (i / 2) * 8, column = l % 4 * 2 + i % 2;
      uint32_t sum = w.in[l][3 * Halves + i];
      for (int k = 0; k < 4 * Halves; ++k) sum += Dot(a[row][k], b[column][k]);
      w.out[l][i] = sum;
    }
}

// ldmatrix: lanes 8m to 8m+7 give the rows of matrix m, 8 elements of 16 bits each.
inline void matrix_row(Thread &t, uint64_t address, uint32_t count, int line) {
  if (t.lane < 8 * count) access(t, kShared, address, 16, false, line);
  t.warp->in[t.lane][0] = (uint32_t)address;
}
template <int Count, bool Transposed> void gather_rows(Warp &w) {
  for (int m = 0; m < Count; ++m)
    for (uint32_t l = 0; l < kLanes; ++l)
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t row = Transposed ? l % 4 * 2 + i : l / 4;
        const uint32_t column = Transposed ? l / 4 : l % 4 * 2 + i;
        memcpy((char *)&w.out[l][m] + 2 * i, w.shared + w.in[m * 8 + row][0] + 2 * column, 2);
      }
}

}  // namespace emu
