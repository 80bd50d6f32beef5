/* Peak rates of one core, registers only, printed as two numbers on one line:
 *   binary GMAC/s   one xor, one popcount and one add for each word of binary products
 *   float GMAC/s    one fused multiply-add for each word of float products
 *
 * Every operand sits in a register. An empty asm statement with a "+" operand tells the compiler
 * that the value may have changed, so that it can neither hoist an instruction out of the loop nor
 * fold two of them into one, and costs no instruction itself. The accumulators are independent:
 * enough of them hide the latency of every instruction.
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define ROUNDS 400000
#define REPEATS 12

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
typedef __m512i word;
#define WORD_BITS 512
#define REGISTER "+v"
#define SPREAD(v) _mm512_set1_epi32(v)
#define XOR_COUNT_ADD(acc, a, b) \
  acc = _mm512_add_epi32(acc, _mm512_popcnt_epi32(_mm512_xor_si512(a, b)))
#else
typedef uint64_t word;
#define WORD_BITS 64
#define REGISTER "+r"
#define SPREAD(v) ((word)(v))
#define XOR_COUNT_ADD(acc, a, b) acc += (word)__builtin_popcountll(a ^ b)
#endif

#if defined(__AVX512F__)
typedef __m512 fword;
#define FLOATS 16
#define FREGISTER "+v"
#define FSPREAD(v) _mm512_set1_ps(v)
#define MULTIPLY_ADD(acc, a, b) acc = _mm512_fmadd_ps(a, b, acc)
#elif defined(__FMA__)
#include <immintrin.h>
typedef __m256 fword;
#define FLOATS 8
#define FREGISTER "+x"
#define FSPREAD(v) _mm256_set1_ps(v)
#define MULTIPLY_ADD(acc, a, b) acc = _mm256_fmadd_ps(a, b, acc)
#elif defined(__aarch64__)
#include <arm_neon.h>
typedef float32x4_t fword;
#define FLOATS 4
#define FREGISTER "+w"
#define FSPREAD(v) vdupq_n_f32(v)
#define MULTIPLY_ADD(acc, a, b) acc = vfmaq_f32(acc, a, b)
#else
typedef float fword;
#define FLOATS 1
#if defined(__x86_64__)
#define FREGISTER "+x"
#else
#define FREGISTER "+w"
#endif
#define FSPREAD(v) (v)
#define MULTIPLY_ADD(acc, a, b) acc += (a) * (b)
#endif

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

/* Seconds for ROUNDS rounds of twelve xor, popcount, add. */
static double popcount_seconds(void) {
#if WORD_BITS == 512
#define DECLARE(i) word acc##i = SPREAD(0), b##i = SPREAD(i * 77 + 1); __asm__("" : REGISTER(b##i));
#define STEP(i) XOR_COUNT_ADD(acc##i, a, b##i);
#define KEEP(i) __asm__ volatile("" : REGISTER(acc##i));
#define ALL TWELVE
#else /* sixteen integer registers: five accumulators, five operands */
#define FIVE(X) X(0) X(1) X(2) X(3) X(4)
#define DECLARE(i) word acc##i = SPREAD(0), b##i = SPREAD(i * 77 + 1); __asm__("" : REGISTER(b##i));
#define STEP(i) XOR_COUNT_ADD(acc##i, a, b##i);
#define KEEP(i) __asm__ volatile("" : REGISTER(acc##i));
#define ALL FIVE
#endif
  word a = SPREAD(3);
  ALL(DECLARE)
  double start = now();
  for (int round = 0; round < ROUNDS; ++round) {
    __asm__ volatile("" : REGISTER(a));
    ALL(STEP)
    ALL(KEEP)
  }
  double seconds = now() - start;
  return seconds;
}

/* Seconds for ROUNDS rounds of twelve multiply-adds. */
static double fma_seconds(void) {
#define FDECLARE(i) fword f##i = FSPREAD(0.0f);
#define FSTEP(i) MULTIPLY_ADD(f##i, x, y);
#define FKEEP(i) __asm__ volatile("" : FREGISTER(f##i));
  fword x = FSPREAD(1.5f), y = FSPREAD(0.5f);
  TWELVE(FDECLARE)
  double start = now();
  for (int round = 0; round < ROUNDS; ++round) {
    __asm__ volatile("" : FREGISTER(x), FREGISTER(y));
    TWELVE(FSTEP)
    TWELVE(FKEEP)
  }
  return now() - start;
}

int main(void) {
  const int chains = WORD_BITS == 512 ? 12 : 5;
  double best_popcount = 1e9, best_fma = 1e9;
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
    double p = popcount_seconds(), f = fma_seconds();
    if (p < best_popcount) best_popcount = p;
    if (f < best_fma) best_fma = f;
  }
  printf("%.1f %.2f %d\n", 1e-9 * ROUNDS * chains * WORD_BITS / best_popcount,
         1e-9 * ROUNDS * 12.0 * FLOATS / best_fma, WORD_BITS);
  return 0;
}
