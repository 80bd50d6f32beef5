/* Peak rates of one core, registers only. The arguments are the processor's features in LLVM's
 * names (runtime/cpu.py asks the operating system). A line for each probe that it can run,
 *   NAME GMACS            1e9 multiply-adds per second, the best of REPEATS
 * and for each that it cannot,
 *   NAME - REASON
 *
 * popcount_*  binary multiply-adds: xor, count the bits, add. vpopcntdq and scalar count with one
 *             instruction; lookup looks both halves of a byte up in a table (pshufb); nibbles looks
 *             four bits up in the table of four others, without a xor; carrysave adds sixteen vectors
 *             of bits before it looks up; shifts adds neighbouring bits; neon counts the bits of bytes.
 * fma_*       float32
 * vnni_*      u8 x s8 into s32 (vpdpbusd)
 * amx_int8    s8 x s8 into s32 (tdpbssd), full tiles
 *
 * Every probe carries its own target attribute and runs where the processor has the instructions,
 * so that one program measures them all. An empty asm statement with a "+" operand tells the
 * compiler that a value may have changed: it can neither hoist an instruction out of the loop nor
 * fold two into one, and costs no instruction itself. The accumulators are independent; enough of
 * them hide the latency of every instruction. Sums are checked: a probe that was optimised away
 * cannot pass.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 400000
#define REPEATS 12
#define MOST 20

typedef struct {
  const char *name, *feature; /* needed; NULL: none */
  double (*run)(void);
  double macs;                                /* of a round */
  void (*permit)(char *reason, size_t size); /* asks for permission; NULL: none is needed */
  char reason[80];                            /* "": it runs */
} Probe;

static Probe probes[MOST];
static int count;

static Probe *add(const char *name, const char *feature, double (*run)(void), double macs) {
  probes[count] = (Probe){name, feature, run, macs, NULL, ""};
  return &probes[count++];
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Write `lane` over and over into `to`. */
static void fill(void *to, size_t size, const void *lane, size_t width) {
  for (size_t at = 0; at < size; at += width) memcpy((char *)to + at, lane, width);
}

static void check(const char *name, const void *sums, size_t size, const void *lane, size_t width) {
  for (size_t at = 0; at < size; at += width) {
    if (memcmp((const char *)sums + at, lane, width) != 0) {
      fprintf(stderr, "%s computes a wrong sum\n", name);
      exit(1);
    }
  }
}

#define NOTHING()
#define ONE(i) +1
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define SEVEN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6)
#define FIVE(X) X(0) X(1) X(2) X(3) X(4)
#define FOUR(X) X(0) X(1) X(2) X(3)

#if defined(__x86_64__)
#define HOLD_VECTOR(x) __asm__ volatile("" : "+v"(x))
#elif defined(__riscv)
#define HOLD_VECTOR(x) __asm__ volatile("" : "+f"(x))
#else
#define HOLD_VECTOR(x) __asm__ volatile("" : "+w"(x))
#endif
#define HOLD_SCALAR(x) __asm__ volatile("" : "+r"(x))
#define DECLARE_VECTOR(i) __typeof__(a) sum##i = zero, b##i = b; HOLD_VECTOR(b##i);
#define DECLARE_SCALAR(i) __typeof__(a) sum##i = zero, b##i = b; HOLD_SCALAR(b##i);
#define KEEP_VECTOR(i) HOLD_VECTOR(sum##i);
#define KEEP_SCALAR(i) HOLD_SCALAR(sum##i);
#define STORE(i) sums[i] = sum##i;

/* NAME: seconds for ROUNDS rounds of STEP on each chain. Lanes of a and b hold A and B (of type IN);
 * those of every sum must end as EXPECTED (of type OUT). The loop is a function without calls:
 * beside the clock's, which change all vector registers, compilers keep the sums in memory. */
#define PROBE(NAME, ATTRIBUTE, TYPE, KIND, CHAINS, SETUP, STEP, IN, A, B, OUT, EXPECTED) \
  __attribute__((noinline)) ATTRIBUTE static void NAME##_loop(const TYPE *in, TYPE *sums) { \
    TYPE a = in[0], b = in[1], zero;                                                      \
    memset(&zero, 0, sizeof zero);                                                        \
    SETUP() CHAINS(DECLARE_##KIND)                                                        \
    for (int round = 0; round < ROUNDS; ++round) {                                        \
      HOLD_##KIND(a);                                                                     \
      CHAINS(STEP) CHAINS(KEEP_##KIND)                                                    \
    }                                                                                     \
    CHAINS(STORE)                                                                         \
  }                                                                                       \
  static double NAME(void) {                                                              \
    TYPE in[2], sums[0 CHAINS(ONE)];                                                      \
    IN lane_a = A, lane_b = B;                                                            \
    OUT expected = (OUT)(EXPECTED);                                                       \
    fill(&in[0], sizeof in[0], &lane_a, sizeof lane_a);                                   \
    fill(&in[1], sizeof in[1], &lane_b, sizeof lane_b);                                   \
    double start = now();                                                                 \
    NAME##_loop(in, sums);                                                                \
    double seconds = now() - start;                                                       \
    check(#NAME, sums, sizeof sums, &expected, sizeof expected);                          \
    return seconds;                                                                       \
  }

/* 0x03 ^ 0xfe = 0xfd: seven bits of every byte; sums of bytes wrap around. */
#define POPCOUNT(NAME, ATTRIBUTE, TYPE, KIND, CHAINS, SETUP, STEP, OUT) \
  PROBE(NAME, ATTRIBUTE, TYPE, KIND, CHAINS, SETUP, STEP, uint8_t, 0x03, 0xfe, OUT, \
        (uint64_t)ROUNDS * 7 * sizeof(OUT))
#define FMA(NAME, ATTRIBUTE, TYPE, CHAINS, STEP) /* 1.5 * 0.5, exact in every partial sum */ \
  PROBE(NAME, ATTRIBUTE, TYPE, VECTOR, CHAINS, NOTHING, STEP, float, 1.5f, 0.5f, float, ROUNDS * 0.75f)
#define VNNI(NAME, ATTRIBUTE, TYPE, CHAINS, STEP) /* four times 3 * -2 */ \
  PROBE(NAME, ATTRIBUTE, TYPE, VECTOR, CHAINS, NOTHING, STEP, int8_t, 3, -2, int32_t, ROUNDS * -24)

#define BITS(vector, chains) (8.0 * sizeof(vector) * chains)

#define SCALAR_STEP(i) sum##i += (uint64_t)__builtin_popcountll(a ^ b##i);
#define SEPARATE_STEP(i) sum##i += a * b##i;

#if defined(__x86_64__)
#include "peak_x86.h"
#elif defined(__aarch64__)
#include <arm_neon.h>
#define NEON(i) sum##i = vaddq_u8(sum##i, vcntq_u8(veorq_u8(a, b##i)));
POPCOUNT(popcount_neon128, , uint8x16_t, VECTOR, FOUR, NOTHING, NEON, uint8_t)
POPCOUNT(popcount_scalar64, , uint64_t, SCALAR, FIVE, NOTHING, SCALAR_STEP, uint64_t)
#define NEON_FMA(i) sum##i = vfmaq_f32(sum##i, a, b);
FMA(fma_neon128, , float32x4_t, TWELVE, NEON_FMA)

static void add_probes(void) {
  add("popcount_neon128", NULL, popcount_neon128, BITS(uint8x16_t, 4));
  add("popcount_scalar64", NULL, popcount_scalar64, BITS(uint64_t, 5));
  add("fma_neon128", NULL, fma_neon128, 4 * 12);
}

#else
POPCOUNT(popcount_scalar64, , uint64_t, SCALAR, FIVE, NOTHING, SCALAR_STEP, uint64_t)
FMA(fma_scalar, , float, FIVE, SEPARATE_STEP)

static void add_probes(void) {
  add("popcount_scalar64", NULL, popcount_scalar64, BITS(uint64_t, 5));
  add("fma_scalar", NULL, fma_scalar, 5);
}
#endif

/* Whether one of the arguments is `feature`. */
static int given(const char *feature, char **arguments) {
  while (*arguments && strcmp(*arguments, feature) != 0) ++arguments;
  return *arguments != NULL;
}

int main(int argc, char **argv) {
  double best[MOST];
  (void)argc;
  add_probes();
  for (int i = 0; i < count; ++i) {
    Probe *probe = &probes[i];
    if (probe->feature && !given(probe->feature, argv + 1))
      snprintf(probe->reason, sizeof probe->reason, "the processor has no %s", probe->feature);
    else if (!probe->run)
      snprintf(probe->reason, sizeof probe->reason, "the C compiler is too old");
    else if (probe->permit)
      probe->permit(probe->reason, sizeof probe->reason);
    best[i] = 1e9;
  }
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
    for (int i = 0; i < count; ++i) {
      double seconds = probes[i].reason[0] ? 1e9 : probes[i].run();
      if (seconds < best[i]) best[i] = seconds;
    }
  }
  for (int i = 0; i < count; ++i) {
    if (probes[i].reason[0])
      printf("%s - %s\n", probes[i].name, probes[i].reason);
    else
      printf("%s %.2f\n", probes[i].name, 1e-9 * ROUNDS * probes[i].macs / best[i]);
  }
  return 0;
}
