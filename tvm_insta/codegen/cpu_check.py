"""C code that asks the processor for the features the kernels need, before any kernel runs.

Feature names are LLVM's. The tables hold what kernels can use, the same names that
`tvm_insta.runtime.cpu` knows; others (tuning hints such as `fast-gather`) need no check.
Sources: Intel SDM vol. 2A (CPUID), AMD APM vol. 3 (leaf 0x80000001), Linux uapi/asm/hwcap.h.
"""

from __future__ import annotations

from collections.abc import Iterable

_EAX, _EBX, _ECX, _EDX = range(4)
_AVX, _AVX512, _AMX = 0x6, 0xE6, 0x60000  # state that the OS must save: XCR0 bits

# name -> (leaf, subleaf, register, bit, XCR0 bits)
X86: dict[str, tuple[int, int, int, int, int]] = {
    "cmov": (1, 0, _EDX, 15, 0),
    "sse": (1, 0, _EDX, 25, 0),
    "sse2": (1, 0, _EDX, 26, 0),
    "sse3": (1, 0, _ECX, 0, 0),
    "ssse3": (1, 0, _ECX, 9, 0),
    "fma": (1, 0, _ECX, 12, _AVX),
    "cx16": (1, 0, _ECX, 13, 0),
    "sse4.1": (1, 0, _ECX, 19, 0),
    "sse4.2": (1, 0, _ECX, 20, 0),
    "movbe": (1, 0, _ECX, 22, 0),
    "popcnt": (1, 0, _ECX, 23, 0),
    "avx": (1, 0, _ECX, 28, _AVX),
    "f16c": (1, 0, _ECX, 29, _AVX),
    "bmi": (7, 0, _EBX, 3, 0),
    "avx2": (7, 0, _EBX, 5, _AVX),
    "bmi2": (7, 0, _EBX, 8, 0),
    "avx512f": (7, 0, _EBX, 16, _AVX512),
    "avx512dq": (7, 0, _EBX, 17, _AVX512),
    "avx512ifma": (7, 0, _EBX, 21, _AVX512),
    "avx512cd": (7, 0, _EBX, 28, _AVX512),
    "avx512bw": (7, 0, _EBX, 30, _AVX512),
    "avx512vl": (7, 0, _EBX, 31, _AVX512),
    "avx512vbmi": (7, 0, _ECX, 1, _AVX512),
    "avx512vbmi2": (7, 0, _ECX, 6, _AVX512),
    "gfni": (7, 0, _ECX, 8, 0),
    "avx512vnni": (7, 0, _ECX, 11, _AVX512),
    "avx512bitalg": (7, 0, _ECX, 12, _AVX512),
    "avx512vpopcntdq": (7, 0, _ECX, 14, _AVX512),
    "amx-bf16": (7, 0, _EDX, 22, _AMX),
    "avx512fp16": (7, 0, _EDX, 23, _AVX512),
    "amx-tile": (7, 0, _EDX, 24, _AMX),
    "amx-int8": (7, 0, _EDX, 25, _AMX),
    "avxvnni": (7, 1, _EAX, 4, _AVX),
    "avx512bf16": (7, 1, _EAX, 5, _AVX512),
    "amx-fp16": (7, 1, _EAX, 21, _AMX),
    "avxifma": (7, 1, _EAX, 23, _AVX),
    "avxvnniint8": (7, 1, _EDX, 4, _AVX),
    "avxneconvert": (7, 1, _EDX, 5, _AVX),
    "avxvnniint16": (7, 1, _EDX, 10, _AVX),
    "lzcnt": (0x80000001, 0, _ECX, 5, 0),
    "sse4a": (0x80000001, 0, _ECX, 6, 0),
    "xop": (0x80000001, 0, _ECX, 11, _AVX),
    "fma4": (0x80000001, 0, _ECX, 16, _AVX),
    "tbm": (0x80000001, 0, _ECX, 21, 0),
}

# name -> (AT_HWCAP = 16 or AT_HWCAP2 = 26, bit)
AARCH64: dict[str, tuple[int, int]] = {
    "fp-armv8": (16, 0),
    "neon": (16, 1),
    "lse": (16, 8),
    "fullfp16": (16, 10),
    "rdm": (16, 12),
    "jsconv": (16, 13),
    "complxnum": (16, 14),
    "rcpc": (16, 15),
    "dotprod": (16, 20),
    "sve": (16, 22),
    "fp16fml": (16, 23),
    "rcpc-immo": (16, 26),
    "flagm": (16, 27),
    "sve2": (26, 1),
    "fptoint": (26, 8),
    "i8mm": (26, 13),
    "bf16": (26, 14),
}
ARM: dict[str, tuple[int, int]] = {
    "neon": (16, 12),
    "vfp3": (16, 13),
    "vfp4": (16, 16),
    "hwdiv-arm": (16, 17),
    "hwdiv": (16, 18),
    "d32": (16, 19),
    "fullfp16": (16, 23),
    "dotprod": (16, 24),
}
# A single-letter extension is the bit of its place in the alphabet.
RISCV64: dict[str, tuple[int, int]] = {letter: (16, ord(letter) - ord("a")) for letter in "mafdcv"}

_HWCAP_TABLES = {"aarch64": AARCH64, "arm": ARM, "riscv64": RISCV64}

_X86_CODE = """\
#include <cpuid.h>

static uint32_t cpu_register(uint32_t leaf, uint32_t subleaf, int which) {
  uint32_t value[4] = {0, 0, 0, 0};
  if (!__get_cpuid_count(leaf, subleaf, &value[0], &value[1], &value[2], &value[3])) return 0;
  return value[which];
}

/* The register state that the operating system saves; 0 where it does not say. */
static uint32_t saved_state(void) {
  uint32_t low = 0, high = 0;
  if ((cpu_register(1, 0, 2) >> 27 & 1u) == 0) return 0; /* OSXSAVE */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  (void)high;
  return low;
}

static const char *find_missing_feature(void) {
  static const struct {
    const char *name;
    uint32_t leaf, subleaf, saved;
    uint8_t which, bit;
  } needs[] = {
%s
  };
  const uint32_t saved = saved_state();
  for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
    const uint32_t value = cpu_register(needs[i].leaf, needs[i].subleaf, needs[i].which);
    if ((value >> needs[i].bit & 1u) == 0) return needs[i].name;
    if ((saved & needs[i].saved) != needs[i].saved) return needs[i].name;
  }
  return NULL;
}
"""

_HWCAP_CODE = """\
#include <sys/auxv.h>

static const char *find_missing_feature(void) {
  static const struct {
    const char *name;
    unsigned long word, bit;
  } needs[] = {
%s
  };
  for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
    if ((getauxval(needs[i].word) >> needs[i].bit & 1ul) == 0) return needs[i].name;
  return NULL;
}
"""

# Linux keeps the state of tiles, 8 KiB a thread, from processes that have not asked for it.
_TILE_CODE = """\
#include <sys/syscall.h>

long syscall(long number, ...); /* as in unistd.h, which strict C11 leaves without it */

/* Ask Linux to let this process use AMX tiles: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA). */
static int ask_permission(void) { return syscall(SYS_arch_prctl, 0x1023L, 18L) == 0; }
"""
_NO_PERMISSION = "static int ask_permission(void) { return 1; }\n"

_NO_CHECK = "static const char *find_missing_feature(void) { return NULL; }\n"


def checkable(arch: str, features: Iterable[str]) -> tuple[str, ...]:
    """Those of `features` that the generated code checks on `arch`, in the tables' order."""
    wanted = set(features)
    table = X86 if arch == "x86_64" else _HWCAP_TABLES.get(arch, {})
    return tuple(name for name in table if name in wanted)


def c_code(arch: str, features: Iterable[str]) -> str:
    """C source of `const char *find_missing_feature(void)`: a name, or NULL if all are there."""
    names = checkable(arch, features)
    if not names:
        return _NO_CHECK
    if arch == "x86_64":
        rows = []
        for name in names:
            leaf, subleaf, which, bit, saved = X86[name]
            rows.append(f'      {{"{name}", {leaf:#x}u, {subleaf}u, {saved:#x}u, {which}, {bit}}},')
        return _X86_CODE % "\n".join(rows)
    table = _HWCAP_TABLES[arch]
    entries = [f'      {{"{name}", {table[name][0]}ul, {table[name][1]}ul}},' for name in names]
    return _HWCAP_CODE % "\n".join(entries)


def permission_code(needs: Iterable[str]) -> str:
    """C source of `int ask_permission(void)`: 1 if the system lets the kernels use what they need.

    Args:
        needs: features in LLVM's names; only AMX tiles need a permission.
    """
    return _TILE_CODE if "amx-tile" in set(needs) else _NO_PERMISSION
