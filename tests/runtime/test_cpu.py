"""CPU features from recorded texts of /proc/cpuinfo and from the auxiliary vector."""

from __future__ import annotations

import pytest

from tvm_insta.runtime import cpu

# Flag lines as these machines print them (the rest of the text shortened).
ZEN4_VM = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
flags\t\t: fpu cx8 cmov mmx fxsr sse sse2 ht lm pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt \
aes avx f16c abm sse4a bmi1 avx2 bmi2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl \
avx512_bf16 avx512vbmi avx512_vbmi2 gfni vaes avx512_vnni avx512_bitalg avx512_vpopcntdq
bugs\t\t: sysret_ss_attrs
"""
HASWELL = (
    "flags\t\t: sse sse2 pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt avx f16c abm bmi1 avx2\n"
)
PI4 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08
"""
NEOVERSE_N1 = (
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
    "lrcpc dcpop asimddp ssbs\n"
)
CORTEX_A9 = (
    "processor\t: 0\nmodel name\t: ARMv7 Processor rev 10 (v7l)\n"
    "Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpd32 \n"
)
SIFIVE_U74 = "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc_zicsr_zifencei\nmmu\t\t: sv39\n"


def test_x86_flags_get_llvm_names():
    found = cpu.parse_cpuinfo(ZEN4_VM, "x86_64")
    assert {
        "sse3",
        "sse4.2",
        "lzcnt",
        "bmi",
        "avx512vpopcntdq",
        "avx512bf16",
        "avx512vnni",
    } <= found
    assert not {"pni", "abm", "aes", "amx-int8", "avx512fp16"} & found


def test_a_machine_without_avx512_lacks_it():
    have = cpu.parse_cpuinfo(HASWELL, "x86_64")
    assert cpu.missing(("avx2", "avx512vpopcntdq", "avx512f", "fma"), have) == (
        "avx512f",
        "avx512vpopcntdq",
    )
    assert cpu.missing(("avx2", "fma"), have) == ()


@pytest.mark.parametrize(
    ("text", "arch", "features"),
    [
        (PI4, "aarch64", {"fp-armv8", "neon"}),
        (
            NEOVERSE_N1,
            "aarch64",
            {"fp-armv8", "neon", "lse", "fullfp16", "rdm", "rcpc", "dotprod"},
        ),
        (CORTEX_A9, "arm", {"neon", "vfp3", "d32"}),
        # A 32-bit process on a 64-bit kernel.
        (PI4, "arm", {"neon", "vfp3", "vfp4", "d32", "hwdiv", "hwdiv-arm"}),
        (SIFIVE_U74, "riscv64", {"m", "a", "f", "d", "c"}),
        ("isa : rv64gcv\n", "riscv64", {"m", "a", "f", "d", "c", "v"}),
        (ZEN4_VM, "aarch64", set()),
        ("", "x86_64", set()),
        (PI4, "sparc64", set()),
    ],
)
def test_features_of_recorded_machines(text, arch, features):
    assert cpu.parse_cpuinfo(text, arch) == features


def test_only_what_every_core_has_counts():
    big_little = NEOVERSE_N1 + "\nprocessor : 1\n" + PI4
    assert cpu.parse_cpuinfo(big_little, "aarch64") == {"fp-armv8", "neon"}


def test_auxiliary_vector_of_emulated_arm_cpus():
    # getauxval(AT_HWCAP) printed under qemu-aarch64 -cpu cortex-a76 and qemu-arm -cpu cortex-a9.
    assert cpu.parse_hwcap(0x119FFB, 0, "aarch64") == {
        "fp-armv8",
        "neon",
        "lse",
        "fullfp16",
        "rdm",
        "rcpc",
        "dotprod",
    }
    assert cpu.parse_hwcap(0x8B8D7, 0, "arm") == {"neon", "vfp3", "d32"}
    assert cpu.parse_hwcap(1 << 1, 1 << 13, "aarch64") == {"neon", "i8mm"}
    assert cpu.parse_hwcap(0xFFFF, 0, "x86_64") == frozenset()


def test_arm_falls_back_to_the_auxiliary_vector(monkeypatch):
    monkeypatch.setattr(cpu, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "_hwcaps", lambda: (0x119FFB, 0))
    monkeypatch.setattr(cpu, "parse_cpuinfo", lambda text, arch: frozenset())
    assert "dotprod" in cpu.cpu_features.__wrapped__()


def test_machine_names(monkeypatch):
    for bits, said, want in [
        (64, "AMD64", "x86_64"),
        (64, "arm64", "aarch64"),
        (32, "aarch64", "arm"),
        (32, "armv7l", "arm"),
        (32, "x86_64", "i386"),
        (64, "riscv64", "riscv64"),
    ]:
        monkeypatch.setattr(cpu.platform, "machine", lambda said=said: said)
        monkeypatch.setattr(cpu.struct, "calcsize", lambda fmt, bits=bits: bits // 8)
        assert cpu.machine() == want, said


def test_this_machine_reports_its_baseline():
    baseline = {"x86_64": "sse2", "aarch64": "neon"}.get(cpu.machine())
    if baseline is None:
        pytest.skip(f"no baseline feature is stated for {cpu.machine()}")
    assert baseline in cpu.cpu_features()
    assert cpu.cpu_features() <= cpu.checkable(cpu.machine())
    assert cpu.missing(cpu.cpu_features()) == ()
    assert cpu.missing(["no-such-feature"]) == ("no-such-feature",)
