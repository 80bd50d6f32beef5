"""The emulator itself: what it executes, in every form of address, and what it refuses."""

from __future__ import annotations

import os
import subprocess

import pytest

from tvm_insta.runtime import cpu

pytestmark = pytest.mark.skipif(
    "amx-tile" in cpu.cpu_features(), reason="the processor executes tile instructions itself"
)

HEAD = r"""
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } config
    __attribute__((used)) = {1, 0, {0}, {16, 32, 8}, {3, 3, 8}};
static int8_t a[3][32], b[8][16];
static int32_t c[3][4], wide[3 * 8];
#define PERMIT syscall(SYS_arch_prctl, 0x1023, 18)
#define TILE(text, ...) __asm__ volatile(text : : __VA_ARGS__ : "memory")
"""

# Rows of 3: a is 3 x 32 bytes, b 8 rows of 4 columns of 4 bytes, c 3 x 4 sums.
PRODUCT = r"""
#define SIGNED(x) ((int8_t)(x))
#define UNSIGNED(x) ((uint8_t)(x))
#define CHECK(instruction, read)                                              \
  TILE("tilezero %%tmm0\n " instruction " %%tmm2, %%tmm1, %%tmm0", "r"(0));   \
  TILE("tilestored %%tmm0, (%0,%1,1)", "r"(c), "r"(16L));                     \
  for (int m = 0; m < 3; m++)                                                 \
    for (int n = 0; n < 4; n++) {                                             \
      int32_t sum = 0;                                                        \
      for (int k = 0; k < 32; k++) sum += read(a[m][k]) * b[k / 4][4 * n + k % 4]; \
      if (c[m][n] != sum) return printf("%s %d %d\n", instruction, m, n), 1; \
    }

int main(void) {
  for (int i = 0; i < 3 * 32; i++) a[0][i] = (int8_t)(i * 37 - 128);
  for (int i = 0; i < 8 * 16; i++) b[0][i] = (int8_t)(i * 91 + 5);
  config.bytes[0] = 16, config.bytes[1] = 32, config.bytes[2] = 16;
  PERMIT;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  TILE("tilezero %%tmm0\n tileloadd (%0,%1,1), %%tmm1", "r"(a), "r"(32L));
  TILE("tileloadd -8(%0,%1,2), %%tmm2", "r"((char *)b + 8), "r"(8L));
  CHECK("tdpbssd", SIGNED)
  CHECK("tdpbusd", UNSIGNED)
  TILE("tilezero %%tmm0\n tdpbssd %%tmm2, %%tmm1, %%tmm0", "r"(0));
  register void *r13 __asm__("r13") = c, *r9 __asm__("r9") = (char *)wide + 400;
  register long r12 __asm__("r12") = 4;
  TILE("tilestored %%tmm0, (%0,%1,4)", "r"(r13), "r"(r12));
  TILE("tilestored %%tmm0, -400(%0,%1,8)", "r"(r9), "r"(r12));
  TILE("tilerelease", "r"(0));
  for (int m = 0; m < 3; m++)
    for (int n = 0; n < 4; n++) {
      int32_t sum = 0;
      for (int k = 0; k < 32; k++) sum += a[m][k] * b[k / 4][4 * n + k % 4];
      if (c[m][n] != sum || wide[8 * m + n] != sum) return printf("%d %d\n", m, n), 1;
    }
  puts("exact");
  return 0;
}
"""

# One row of 4 pairs and one column; the accumulator holds `start`. 2^24 + 1 rounds to 2^24.
FLOATS = r"""
typedef struct { float a[8], b[8], start, expected; } example;
static const example EXAMPLES[] = {
  {{1, 2, 3, 4, 5, 6, 7, 8}, {1, 1, 1, 1, 1, 1, 1, -1}, 0.5f, 20.5f},
  {{0x1p24f, 0, 1, 0, -0x1p24f}, {1, 1, 1, 1, 1}, 0, 0},     /* a chain in order, 2^24 + 1 - 2^24 */
  {{0x1p24f, 1, -0x1p24f}, {1, 1, 1}, 0, 1},                    /* the odd numbers have their own */
  {{-0x1p24f, 1}, {1, 1}, 0x1p24f, 1},                          /* both chains, then the sum */
  {{1, 1}, {1, 1}, 0x1p25f, 0x1p25f},                           /* half of an ulp: to even */
  {{3}, {1}, 0x1p25f, 0x1p25f + 4},
  {{1.0078125f, 0, 0x1p-14f}, {1.0078125f, 0, -1}, -1.015625f, 0}, /* 1 + 2^-6 + 2^-14 is exact */
  {{0x1p-127f}, {0x1p20f}, 0, 0},                               /* a subnormal operand */
  {{0x1p-100f}, {0x1p-27f}, 0, 0},                              /* a subnormal result */
  {{0x1p-100f, 0x1p-100f}, {0x1p-27f, 0x1p-27f}, 0, 0},         /* of each chain */
  {{0x1p-100f}, {0x1p-26f}, 0, 0x1p-126f},
  {{0}, {0}, 0x1p-127f, 0},                                     /* a subnormal accumulator */
};
static uint16_t x[8], y[4][2];
static float sum;

static uint16_t narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (uint16_t)(bits >> 16);
}

int main(void) {
  config.bytes[0] = 4, config.bytes[1] = 16, config.bytes[2] = 4;
  config.rows[0] = config.rows[1] = 1, config.rows[2] = 4;
  PERMIT;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  for (unsigned i = 0; i < sizeof EXAMPLES / sizeof *EXAMPLES; i++) {
    for (int k = 0; k < 8; k++) x[k] = narrow(EXAMPLES[i].a[k]);
    for (int k = 0; k < 8; k++) y[k / 2][k % 2] = narrow(EXAMPLES[i].b[k]);
    sum = EXAMPLES[i].start;
    TILE("tileloadd (%0,%1,1), %%tmm0", "r"(&sum), "r"(4L));
    TILE("tileloadd (%0,%1,1), %%tmm1", "r"(x), "r"(16L));
    TILE("tileloadd (%0,%1,1), %%tmm2", "r"(y), "r"(4L));
    TILE("tdpbf16ps %%tmm2, %%tmm1, %%tmm0", "r"(0));
    TILE("tilestored %%tmm0, (%0,%1,1)", "r"(&sum), "r"(4L));
    if (memcmp(&sum, &EXAMPLES[i].expected, 4))
      return printf("%u: %a is not %a\n", i, sum, EXAMPLES[i].expected), 1;
  }
  puts("exact");
  return 0;
}
"""

LOAD = """__asm__ volatile("ldtilecfg %0" : : "m"(config));"""
REFUSED = {
    "without a configuration": 'PERMIT; TILE("tilezero %%tmm0", "r"(0));',
    "before the permission": LOAD,
    "shapes do not fit": f'PERMIT; {LOAD} TILE("tdpbssd %%tmm2, %%tmm1, %%tmm0", "r"(0));',
    "the configuration leaves out": f'PERMIT; {LOAD} TILE("tilezero %%tmm7", "r"(0));',
    "on a thread": f'PERMIT; {LOAD} TILE("tilerelease\\n tilezero %%tmm0", "r"(0));',
}


def execute(library, folder, code):
    source, program = folder / "program.c", folder / "program"
    source.write_text(HEAD + code)
    flags = ["-O1", "-std=gnu11", "-Wall", "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
    subprocess.run(["gcc", *flags, source, "-o", program], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library)}
    return subprocess.run([program], env=env, capture_output=True, text=True, check=False)


def test_products_are_exact_in_every_form_of_address(library, tmp_path):
    done = execute(library, tmp_path, PRODUCT)
    assert (done.returncode, done.stdout) == (0, "exact\n"), done.stderr


def test_bfloat16_rounds_adds_and_flushes_as_documented(library, tmp_path):
    done = execute(library, tmp_path, FLOATS)
    assert (done.returncode, done.stdout) == (0, "exact\n"), done.stdout + done.stderr


@pytest.mark.parametrize("why", REFUSED)
def test_refuses_what_a_processor_refuses(library, tmp_path, why):
    done = execute(library, tmp_path, f"int main(void) {{ {REFUSED[why]} return 0; }}")
    assert done.returncode == 70 and why in done.stderr


def test_other_illegal_instructions_still_end_the_process(library, tmp_path):
    done = execute(library, tmp_path, "int main(void) { __builtin_trap(); }")
    assert done.returncode == -4
