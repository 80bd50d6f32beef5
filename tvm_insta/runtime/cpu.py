"""What the CPU of this machine can do, in LLVM's names for it.

A module compiled for AVX-512 dies of an illegal instruction on a machine without it. So the loader
compares the features a module needs with those read here and refuses in one sentence instead. The
operating system is asked, not the CPU's name: a virtual machine may mask the name, and a kernel may
switch a feature off. Only features that generated code may use are listed; AES or random numbers,
say, are reached by no kernel.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

_X86_FLAGS: Mapping[str, str] = {
    "sse": "sse",
    "sse2": "sse2",
    "pni": "sse3",
    "ssse3": "ssse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "sse4a": "sse4a",
    "cmov": "cmov",
    "cx16": "cx16",
    "movbe": "movbe",
    "popcnt": "popcnt",
    "abm": "lzcnt",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "tbm": "tbm",
    "f16c": "f16c",
    "fma": "fma",
    "fma4": "fma4",
    "xop": "xop",
    "gfni": "gfni",
    "avx": "avx",
    "avx2": "avx2",
    "avx_vnni": "avxvnni",
    "avx_vnni_int8": "avxvnniint8",
    "avx_vnni_int16": "avxvnniint16",
    "avx_ifma": "avxifma",
    "avx_ne_convert": "avxneconvert",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512_vbmi2": "avx512vbmi2",
    "avx512_bitalg": "avx512bitalg",
    "avx512_vnni": "avx512vnni",
    "avx512_vpopcntdq": "avx512vpopcntdq",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "amx_fp16": "amx-fp16",
}
# A 32-bit process on a 64-bit kernel is shown the 64-bit words, hence "asimd" in the table of arm.
_AARCH64_WORDS: Mapping[str, str] = {
    "fp": "fp-armv8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
    "asimdrdm": "rdm",
    "asimdfhm": "fp16fml",
    "atomics": "lse",
    "jscvt": "jsconv",
    "fcma": "complxnum",
    "lrcpc": "rcpc",
    "ilrcpc": "rcpc-immo",
    "flagm": "flagm",
    "frint": "fptoint",
    "sve": "sve",
    "sve2": "sve2",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
_ARM_WORDS: Mapping[str, str] = {
    "neon": "neon d32",
    "vfpv3": "vfp3",
    "vfpv4": "vfp4",
    "vfpd32": "d32",
    "idiva": "hwdiv-arm",
    "idivt": "hwdiv",
    "asimd": "neon vfp3 vfp4 d32 hwdiv-arm hwdiv",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
}
_RISCV_LETTERS: Mapping[str, str] = {letter: letter for letter in "mafdcv"}

_TABLES: Mapping[str, Mapping[str, str]] = {
    "x86_64": _X86_FLAGS,
    "aarch64": _AARCH64_WORDS,
    "arm": _ARM_WORDS,
    "riscv64": _RISCV_LETTERS,
}

# The bits of AT_HWCAP and AT_HWCAP2 as /proc/cpuinfo calls them (Linux, uapi/asm/hwcap.h).
_AARCH64_HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
).split()
_AARCH64_HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm "
    "svebf16 i8mm bf16"
).split()
_ARM_HWCAP = (
    "swp half thumb 26bit fastmult fpa vfp edsp java iwmmxt crunch thumbee neon vfpv3 vfpv3d16 tls "
    "vfpv4 idiva idivt vfpd32 lpae evtstrm fphp asimdhp asimddp"
).split()


def machine() -> str:
    """The architecture of this process: `x86_64`, `aarch64`, `arm`, `riscv64`, or its own name."""
    name = platform.machine().lower()
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)
    if struct.calcsize("P") == 4:  # a 32-bit process on a 64-bit kernel
        name = {"x86_64": "i386", "aarch64": "arm"}.get(name, name)
    return "arm" if re.match(r"arm", name) else name


def name() -> str:
    """What the processor calls itself, "unknown processor" where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown processor"
    found = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else "unknown processor"


def checkable(arch: str) -> frozenset[str]:
    """The features, in LLVM's names, that can be read on a machine of this architecture."""
    return frozenset(" ".join(_TABLES.get(arch, {}).values()).split())


def parse_cpuinfo(text: str, arch: str) -> frozenset[str]:
    """The features that all processors in a text of /proc/cpuinfo have.

    Args:
        text: the content of /proc/cpuinfo.
        arch: as `machine()` names it.

    Returns:
        LLVM feature names; empty if the text has no line of features for this architecture.
    """
    key = {"x86_64": "flags", "riscv64": "isa"}.get(arch, "Features")
    table = _TABLES.get(arch, {})
    found: frozenset[str] | None = None
    for line in text.splitlines():
        label, _, value = line.partition(":")
        if label.strip() != key:
            continue
        words = _riscv_words(value) if arch == "riscv64" else value.split()
        names = _translate(words, table)
        # Cores of one chip may differ (big.LITTLE): a thread may be moved to any of them.
        found = names if found is None else found & names
    return found or frozenset()


def parse_hwcap(hwcap: int, hwcap2: int, arch: str) -> frozenset[str]:
    """The features in Linux's auxiliary vector (AT_HWCAP, AT_HWCAP2) of an Arm machine."""
    if arch == "aarch64":
        words = _set_bits(hwcap, _AARCH64_HWCAP) + _set_bits(hwcap2, _AARCH64_HWCAP2)
    elif arch == "arm":
        words = _set_bits(hwcap, _ARM_HWCAP)
    else:
        words = []
    return _translate(words, _TABLES.get(arch, {}))


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features of this machine, in LLVM's names (`avx512vpopcntdq`, `neon`, `dotprod`, ...).

    Read from /proc/cpuinfo; on Arm from the auxiliary vector where /proc/cpuinfo has no such line
    (QEMU's user emulation shows that of its host). Empty where neither exists (not Linux).
    """
    arch = machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = parse_cpuinfo(text, arch)
    if not found and arch in ("aarch64", "arm"):
        found = parse_hwcap(*_hwcaps(), arch)
    return found


def missing(needs: Iterable[str], have: frozenset[str] | None = None) -> tuple[str, ...]:
    """Those of `needs` that this machine (or `have`) lacks, sorted; empty: the module may run."""
    present = cpu_features() if have is None else have
    return tuple(sorted(set(needs) - present))


def _translate(words: Iterable[str], table: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for word in words for name in table.get(word, "").split())


def _riscv_words(isa: str) -> list[str]:
    """`rv64imafdc_zicsr` -> the single letters; `g` stands for `imafd`."""
    letters = isa.strip().partition("_")[0].removeprefix("rv64")
    return list(letters.replace("g", "imafd"))


def _set_bits(mask: int, words: list[str]) -> list[str]:
    return [word for bit, word in enumerate(words) if mask >> bit & 1]


def _hwcaps() -> tuple[int, int]:
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError):  # a C library without it: then nothing is known
        return 0, 0
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = [ctypes.c_ulong]
    return int(getauxval(16)), int(getauxval(26))
