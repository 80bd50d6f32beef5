/* The probes of peak.c for x86-64, each compiled for the instructions that it needs. */
#include <immintrin.h>
#define ISA(features) __attribute__((target(features)))

#define VPOPCNTDQ(i) \
  sum##i = _mm512_add_epi32(sum##i, _mm512_popcnt_epi32(_mm512_xor_si512(a, b##i)));
POPCOUNT(popcount_vpopcntdq512, ISA("avx512f,avx512vpopcntdq"), __m512i, VECTOR, TWELVE, NOTHING,
         VPOPCNTDQ, uint32_t)

#define LOOKUP(P, i)                                                                         \
  {                                                                                             \
    __typeof__(a) bits = a ^ b##i, low = bits & mask, high = P##_srli_epi16(bits, 4) & mask;    \
    low = P##_shuffle_epi8(table, low), high = P##_shuffle_epi8(table, high);                   \
    sum##i = P##_add_epi8(sum##i, P##_add_epi8(low, high));                                     \
  }
#define TABLE()                                                                               \
  static const uint8_t counts[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};       \
  __typeof__(a) table, mask;                                                                \
  fill(&table, sizeof table, counts, sizeof counts);                                        \
  memset(&mask, 0x0f, sizeof mask);                                                         \
  HOLD_VECTOR(table); HOLD_VECTOR(mask);
#define LOOKUP512(i) LOOKUP(_mm512, i)
#define LOOKUP256(i) LOOKUP(_mm256, i)
#define LOOKUP128(i) LOOKUP(_mm, i)
POPCOUNT(popcount_lookup512, ISA("avx512bw"), __m512i, VECTOR, SEVEN, TABLE, LOOKUP512, uint8_t)
POPCOUNT(popcount_lookup256, ISA("avx2"), __m256i, VECTOR, FOUR, TABLE, LOOKUP256, uint8_t)
POPCOUNT(popcount_lookup128, ISA("ssse3"), __m128i, VECTOR, FOUR, TABLE, LOOKUP128, uint8_t)

/* The data choose a table of 16 counts, here of 3 each; a byte of the weight holds four bits. */
#define NIBBLES(P, i) sum##i = P##_add_epi8(sum##i, P##_shuffle_epi8(a, b##i));
#define NIBBLES512(i) NIBBLES(_mm512, i)
#define NIBBLES256(i) NIBBLES(_mm256, i)
#define NIBBLES128(i) NIBBLES(_mm, i)
#define BY_NIBBLES(NAME, ATTRIBUTE, TYPE, CHAINS, STEP) \
  PROBE(NAME, ATTRIBUTE, TYPE, VECTOR, CHAINS, NOTHING, STEP, uint8_t, 3, 14, uint8_t, ROUNDS * 3)
BY_NIBBLES(popcount_nibbles512, ISA("avx512bw"), __m512i, TWELVE, NIBBLES512)
BY_NIBBLES(popcount_nibbles256, ISA("avx2"), __m256i, SEVEN, NIBBLES256)
BY_NIBBLES(popcount_nibbles128, ISA("ssse3"), __m128i, SEVEN, NIBBLES128)

/* Harley and Seal: carry-save adders make one vector of weight 16 of 16 vectors, which alone is
 * looked up. All 16 are equal, so nothing is left over for the weights below. */
#define ADDER(high, low, x, y, z) \
  { __m256i u = (x) ^ (y), v = z; high = ((x) & (y)) | (u & v); low = u ^ v; }
#define DIFFER(x) __m256i x; HOLD_VECTOR(b0); x = a ^ b0;
#define TWO(carry) { DIFFER(x) DIFFER(y) ADDER(carry, ones, ones, x, y) }
#define FOUR_OF(carry) { __m256i p2, q2; TWO(p2) TWO(q2) ADDER(carry, twos, twos, p2, q2) }
#define EIGHT_OF(carry) { __m256i p4, q4; FOUR_OF(p4) FOUR_OF(q4) ADDER(carry, fours, fours, p4, q4) }
#define SIXTEEN(i)                                                                        \
  {                                                                                       \
    __m256i p8, q8, bits;                                                                 \
    EIGHT_OF(p8) EIGHT_OF(q8) ADDER(bits, eights, eights, p8, q8)                         \
    __m256i low = bits & mask, high = _mm256_srli_epi16(bits, 4) & mask;                  \
    low = _mm256_shuffle_epi8(table, low), high = _mm256_shuffle_epi8(table, high);       \
    sum##i = _mm256_add_epi8(sum##i, _mm256_add_epi8(low, high));                         \
  }
#define ADDERS() TABLE() __m256i ones = zero, twos = zero, fours = zero, eights = zero;
#define SINGLE(X) X(0)
POPCOUNT(popcount_carrysave256, ISA("avx2"), __m256i, VECTOR, SINGLE, ADDERS, SIXTEEN, uint8_t)

/* Pairs of bits, then of pairs, then of halves of a byte. */
#define SHIFTS(i)                                                            \
  {                                                                          \
    __m128i v = a ^ b##i;                                                    \
    v = _mm_sub_epi8(v, _mm_srli_epi16(v, 1) & m1);                          \
    v = _mm_add_epi8(v & m2, _mm_srli_epi16(v, 2) & m2);                     \
    v = _mm_add_epi8(v, _mm_srli_epi16(v, 4)) & m4;                          \
    sum##i = _mm_add_epi8(sum##i, v);                                        \
  }
#define MASKS()                                                                               \
  __m128i m1 = _mm_set1_epi8(0x55), m2 = _mm_set1_epi8(0x33), m4 = _mm_set1_epi8(0x0f);     \
  HOLD_VECTOR(m1); HOLD_VECTOR(m2); HOLD_VECTOR(m4);
POPCOUNT(popcount_shifts128, , __m128i, VECTOR, FOUR, MASKS, SHIFTS, uint8_t)
POPCOUNT(popcount_scalar64, ISA("popcnt"), uint64_t, SCALAR, FIVE, NOTHING, SCALAR_STEP, uint64_t)

#define FMA512(i) sum##i = _mm512_fmadd_ps(a, b, sum##i);
#define FMA256(i) sum##i = _mm256_fmadd_ps(a, b, sum##i);
FMA(fma_512, ISA("avx512f"), __m512, TWELVE, FMA512)
FMA(fma_256, ISA("avx2,fma"), __m256, TWELVE, FMA256)
FMA(fma_separate128, , __m128, SEVEN, SEPARATE_STEP) /* SSE multiplies, then adds */

#define VNNI512(i) sum##i = _mm512_dpbusd_epi32(sum##i, a, b);
VNNI(vnni_512, ISA("avx512f,avx512vnni"), __m512i, TWELVE, VNNI512)
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define VNNI256(i) sum##i = _mm256_dpbusd_avx_epi32(sum##i, a, b);
VNNI(vnni_256, ISA("avx2,avxvnni"), __m256i, TWELVE, VNNI256)

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Four sums of 16 x 16, products of 64: each tdpbssd takes 16 cycles, and its result about 52. */
ISA("amx-tile,amx-int8") static double amx_int8(void) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1};
  int8_t a[1024], b[1024];
  int32_t sums[256], expected = ROUNDS * 64 * (3 * -2);
  const long stride = 64;
  for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = 16;
  memset(a, 3, sizeof a);
  memset(b, -2, sizeof b);
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  __asm__ volatile(
      "tileloadd (%0,%2,1), %%tmm4\n\ttileloadd (%0,%2,1), %%tmm5\n\t"
      "tileloadd (%1,%2,1), %%tmm6\n\ttileloadd (%1,%2,1), %%tmm7\n\t"
      "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3"
      : : "r"(a), "r"(b), "r"(stride) : "memory");
  double start = now();
  for (int round = 0; round < ROUNDS; ++round)
    __asm__ volatile(
        "tdpbssd %tmm6, %tmm4, %tmm0\n\ttdpbssd %tmm7, %tmm4, %tmm1\n\t"
        "tdpbssd %tmm6, %tmm5, %tmm2\n\ttdpbssd %tmm7, %tmm5, %tmm3");
  double seconds = now() - start;
#define STORE_TILE(i)                                                                         \
  __asm__ volatile("tilestored %%tmm" #i ", (%0,%1,1)" : : "r"(sums), "r"(stride) : "memory"); \
  check(__func__, sums, sizeof sums, &expected, sizeof expected);
  FOUR(STORE_TILE)
  __asm__ volatile("tilerelease");
  return seconds;
}

/* Ask the kernel for the use of the tile registers; fills in why not. */
static void permit_amx(char *reason, size_t size) {
#if defined(__linux__)
  if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) != 0)
    snprintf(reason, size, "the kernel refuses AMX (%s)", strerror(errno));
#else
  (void)reason, (void)size;
#endif
}
#else
#define vnni_256 NULL
#define amx_int8 NULL
#define permit_amx NULL
#endif

static void add_probes(void) {
  add("popcount_vpopcntdq512", "avx512vpopcntdq", popcount_vpopcntdq512, BITS(__m512i, 12));
  add("popcount_lookup512", "avx512bw", popcount_lookup512, BITS(__m512i, 7));
  add("popcount_lookup256", "avx2", popcount_lookup256, BITS(__m256i, 4));
  add("popcount_lookup128", "ssse3", popcount_lookup128, BITS(__m128i, 4));
  add("popcount_nibbles512", "avx512bw", popcount_nibbles512, BITS(__m512i, 12) / 2);
  add("popcount_nibbles256", "avx2", popcount_nibbles256, BITS(__m256i, 7) / 2);
  add("popcount_nibbles128", "ssse3", popcount_nibbles128, BITS(__m128i, 7) / 2);
  add("popcount_carrysave256", "avx2", popcount_carrysave256, BITS(__m256i, 16));
  add("popcount_shifts128", NULL, popcount_shifts128, BITS(__m128i, 4));
  add("popcount_scalar64", "popcnt", popcount_scalar64, BITS(uint64_t, 5));
  add("fma_512", "avx512f", fma_512, 16 * 12);
  add("fma_256", "fma", fma_256, 8 * 12);
  add("fma_separate128", NULL, fma_separate128, 4 * 7);
  add("vnni_512", "avx512vnni", vnni_512, 64 * 12);
  add("vnni_256", "avxvnni", vnni_256, 32 * 12);
  add("amx_int8", "amx-int8", amx_int8, 4 * 16 * 16 * 64)->permit = permit_amx;
}
