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
int main(void) {
  for (int i = 0; i < 3 * 32; i++) a[0][i] = (int8_t)(i * 37 - 128);
  for (int i = 0; i < 8 * 16; i++) b[0][i] = (int8_t)(i * 91 + 5);
  config.bytes[0] = 16, config.bytes[1] = 32, config.bytes[2] = 16;
  PERMIT;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  TILE("tilezero %%tmm0\n tileloadd (%0,%1,1), %%tmm1", "r"(a), "r"(32L));
  TILE("tileloadd -8(%0,%1,2), %%tmm2", "r"((char *)b + 8), "r"(8L));
  TILE("tdpbssd %%tmm2, %%tmm1, %%tmm0", "r"(0));
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
    flags = ["-O1", "-std=gnu11", "-Wall", "-mamx-tile", "-mamx-int8"]
    subprocess.run(["gcc", *flags, source, "-o", program], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library)}
    return subprocess.run([program], env=env, capture_output=True, text=True, check=False)


def test_products_are_exact_in_every_form_of_address(library, tmp_path):
    done = execute(library, tmp_path, PRODUCT)
    assert (done.returncode, done.stdout) == (0, "exact\n"), done.stderr


@pytest.mark.parametrize("why", REFUSED)
def test_refuses_what_a_processor_refuses(library, tmp_path, why):
    done = execute(library, tmp_path, f"int main(void) {{ {REFUSED[why]} return 0; }}")
    assert done.returncode == 70 and why in done.stderr


def test_other_illegal_instructions_still_end_the_process(library, tmp_path):
    done = execute(library, tmp_path, "int main(void) { __builtin_trap(); }")
    assert done.returncode == -4
