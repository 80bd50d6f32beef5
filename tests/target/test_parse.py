"""Target strings: what is accepted, completed, refused, and what code comes out."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_insta.errors import TargetError
from tvm_insta.runtime import cpu
from tvm_insta.target import llvm_info, parse
from tvm_insta.target.parse import PRESETS
from tvm_insta.target.text import with_host

AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vpopcntdq"}


@pytest.mark.parametrize(
    ("text", "arch", "triple", "lanes", "features"),
    [
        ("rpi3", "aarch64", "aarch64-linux-gnu", 4, {"neon"}),
        ("rpi4", "aarch64", "aarch64-linux-gnu", 4, {"neon"}),
        ("pixel", "aarch64", "aarch64-linux-gnu", 4, {"neon", "dotprod"}),
        ("armv7", "arm", "armv7l-linux-gnueabihf", 4, {"neon", "vfp3"}),
        ("avx2", "x86_64", "x86_64-linux-gnu", 8, {"avx2", "fma"}),
        ("avx512", "x86_64", "x86_64-linux-gnu", 16, AVX512),
        ("llvm -mtriple=x86_64 -mcpu=icelake-server", "x86_64", "x86_64-linux-gnu", 16, AVX512),
        ("llvm -mtriple=x86_64", "x86_64", "x86_64-linux-gnu", 4, {"sse2"}),
        (
            "llvm -mtriple=x86_64-pc-linux-gnu -mattr=+avx512vpopcntdq",
            "x86_64",
            "x86_64-pc-linux-gnu",
            16,
            {"avx2", "avx512f", "avx512vpopcntdq"},
        ),
        ("llvm -mtriple=x86_64 -mcpu=sandybridge", "x86_64", "x86_64-linux-gnu", 4, {"avx"}),
        ("llvm -mtriple=aarch64", "aarch64", "aarch64-linux-gnu", 4, {"neon"}),
        (
            "llvm -mtriple=aarch64-linux-gnu -mattr=+neon,+dotprod",
            "aarch64",
            "aarch64-linux-gnu",
            4,
            {"neon", "dotprod"},
        ),
        ("llvm -mtriple=armv7l", "arm", "armv7l-linux-gnueabihf", 4, {"neon"}),
        ("llvm -mtriple=riscv64", "riscv64", "riscv64-linux-gnu", 4, {"m", "a", "f", "d", "c"}),
        ("llvm -mtriple=wasm32", "wasm32", "wasm32-wasi", 4, {"simd128"}),
    ],
)
def test_what_a_target_resolves_to(text, arch, triple, lanes, features):
    target = parse(text)
    assert (target.text, target.kind, target.arch) == (text, "llvm", arch)
    assert (target.triple, target.lanes, target.vector_bits) == (triple, lanes, 32 * lanes)
    assert features <= target.features
    assert features & cpu.checkable(arch) <= set(target.needs) <= target.features
    assert target.tvm.kind.name == "llvm"
    assert str(target.tvm.attrs["mtriple"]) == triple


def test_a_cpu_without_dotprod_does_not_get_it():
    assert "dotprod" not in parse("rpi4").features
    assert "dotprod" not in parse("llvm -mtriple=aarch64").features
    assert not AVX512 & parse("avx2").features
    assert "avx512vpopcntdq" not in parse("llvm -mtriple=x86_64 -mcpu=skylake-avx512").features


def test_removed_features_are_gone_with_all_that_rest_on_them():
    target = parse("avx512 -mattr=-avx512f")
    assert target.lanes == 8
    assert not AVX512 & target.features


def test_needs_hold_no_feature_that_code_cannot_use():
    """A Raspberry Pi 4 is a Cortex-A72 without AES: it must not be refused for that."""
    target = parse("rpi4")
    assert "aes" in target.features
    assert target.needs == ("fp-armv8", "neon")
    assert cpu.missing(target.needs, frozenset({"fp-armv8", "neon"})) == ()


@pytest.mark.parametrize(
    ("bare", "full"),
    [
        ("aarch64", "aarch64-linux-gnu"),
        ("arm64", "aarch64-linux-gnu"),
        ("arm", "armv7l-linux-gnueabihf"),
        ("armv7l", "armv7l-linux-gnueabihf"),
        ("arm-linux-gnueabihf", "armv7l-linux-gnueabihf"),
        ("x86_64", "x86_64-linux-gnu"),
        ("riscv64", "riscv64-linux-gnu"),
    ],
)
def test_completion_of_triples_is_noted(bare, full):
    target = parse(f"llvm -mtriple={bare}")
    assert target.triple == full
    assert f"-mtriple={bare} was completed to {full}." in target.notes


def test_a_complete_target_has_no_notes():
    assert parse("rpi4").notes == ()
    assert parse("llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a72").notes == ()


def test_abi_of_arm_and_riscv():
    assert parse("llvm -mtriple=armv7l").config["mfloat-abi"] == "hard"
    assert parse("llvm -mtriple=armv7l-linux-gnueabi").config["mfloat-abi"] == "soft"
    assert parse("llvm -mtriple=riscv64").config["mabi"] == "lp64d"
    assert parse("llvm -mtriple=riscv64 -mattr=+m").config["mabi"] == "lp64"


def test_cuda_takes_an_arch_and_a_host():
    target = parse('cuda -arch=sm_80 -host="llvm -mtriple=aarch64 -mcpu=cortex-a76"')
    assert (target.kind, target.arch, target.mcpu, target.lanes) == ("cuda", "cuda", "sm_80", 4)
    assert target.host is not None and target.host.arch == "aarch64"
    assert target.needs == target.host.needs
    assert target.tvm.kind.name == "cuda"
    assert str(target.tvm.attrs["arch"]) == "sm_80"
    assert target.tvm.host.kind.name == "llvm"
    assert parse("h100").canonical == parse("cuda -arch=sm_90").canonical
    assert parse("h100").host.canonical == parse("native").canonical
    orin = parse("orin")
    assert (orin.mcpu, orin.host.arch, orin.host.mcpu) == ("sm_87", "aarch64", "cortex-a78ae")


def test_a_cuda_target_takes_another_host():
    board = parse(with_host("cuda -arch=sm_87", "llvm -mtriple=aarch64"))
    assert (board.mcpu, board.triple) == ("sm_87", "aarch64-linux-gnu")
    assert parse(with_host("orin", "avx2")).host.canonical == parse("avx2").canonical
    with pytest.raises(TargetError, match="only cuda targets have one"):
        with_host("rpi4", "llvm")
    with pytest.raises(TargetError, match="names a host itself"):
        with_host('cuda -arch=sm_80 -host="llvm"', "avx2")


def test_equal_options_have_one_canonical_form():
    forms = [
        "llvm -mtriple=aarch64 -mcpu=cortex-a76 -mattr=+dotprod,+neon -num-cores=4",
        "llvm -num-cores=4 --mattr=+neon,+dotprod,+neon -mcpu=cortex-a76 -mtriple=aarch64",
        '{"kind":"llvm","mtriple":"aarch64","mcpu":"cortex-a76","num-cores":4,'
        '"mattr":["+neon","+dotprod"]}',
        "pixel -mattr=+neon,+dotprod -num-cores=4",
    ]
    assert len({parse(form).canonical for form in forms}) == 1
    config = parse(forms[0]).config
    assert config["mattr"] == ["+dotprod", "+neon"]
    assert config["num-cores"] == 4
    assert parse(forms[0]).tvm.attrs["num-cores"] == 4
    assert {"+neon", "+vfp4"} <= set(parse("armv7 -mattr=+vfp4").config["mattr"])  # the preset's


@pytest.mark.parametrize(
    "text", [*PRESETS, "llvm", "llvm -mtriple=riscv64", "llvm -mtriple=armv7l"]
)
def test_the_canonical_form_is_a_fixed_point(text):
    target = parse(text)
    again = parse(target.canonical)
    assert again.canonical == target.canonical
    # Only the spelling and what was said about it may differ.
    spelling = {"text": "", "notes": (), "host": None if target.host is None else parse("avx2")}
    assert dataclasses.replace(target, **spelling) == dataclasses.replace(again, **spelling)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the target is empty"),
        ("gpu", "begins with llvm or cuda, or a preset (native, rpi4"),
        ("rpi5", "did you mean rpi4 or rpi3?"),
        ("lvm -mcpu=haswell", "did you mean llvm?"),
        ("llvm -device=arm_cpu", "-device (a key of older TVM releases) is not a key of llvm"),
        ("llvm -mtripel=aarch64", "did you mean mtriple?"),
        ("llvm -arch=sm_90", "is not a key of llvm targets"),
        ("llvm -mcpu haswell", "'-mcpu' in a target is not of the form -key=value"),
        ("llvm -mcpu=haswell -mcpu=znver4", "gives -mcpu twice"),
        ("llvm -mcpu=", "-mcpu of a target must be a non-empty string"),
        ("llvm -mtriple='aarch64", "No closing quotation"),
        ("llvm -mtriple=aarch64 -mcpu=foo", "-mcpu=foo is none of the"),
        ("llvm -mtriple=aarch64 -mcpu=cortex-a27", "did you mean cortex-a7"),
        ("llvm -mtriple=aarch64 -mcpu=haswell", "is a CPU of x86_64, not of aarch64"),
        ("llvm -mtriple=x86_64 -mcpu=pentium4", "leaves x86_64 without 64bit"),
        ("llvm -mtriple=x86_64 -mattr=avx2", "must begin with + (use) or - (do not use)"),
        ("llvm -mtriple=x86_64 -mattr=+avx512popcntdq", "did you mean avx512vpopcntdq"),
        ("llvm -mtriple=x86_64 -mattr=+neon", "is not a feature that a CPU of x86_64 has"),
        ("llvm -mtriple=x86_64 -mattr=+avx2,-avx2", "both adds and removes avx2"),
        ("llvm -mtriple=x86_64 -mattr=-sse2", "leaves x86_64 without sse2"),
        ("llvm -mtriple=aarch64 -mattr=-neon", "leaves aarch64 without neon"),
        ("llvm -mtriple=armv7l -mattr=-neon", "leaves arm without neon"),
        ("armv7 -mattr=-neon", "leaves arm without neon"),
        ("llvm -mtriple=armv7l -mattr=-vfp2", "leaves arm without neon, vfp3"),
        ("llvm -mtriple=armv7l -mcpu=cortex-m4", "leaves arm without neon"),
        ("llvm -mtriple=armv7l -mfloat-abi=soft", "use -mfloat-abi=hard"),
        ("llvm -mtriple=aarch64 -mfloat-abi=hard", "belongs to 32-bit Arm"),
        ("llvm -mtriple=aarch64 -mabi=lp64d", "-mabi=lp64d is not allowed for aarch64"),
        ("llvm -mtriple=riscv64 -mattr=+m -mabi=lp64d", "add -mattr=+d, or use -mabi=lp64"),
        ("llvm -mtriple=mips-linux-gnu", "no architecture that is supported here"),
        ("llvm -mtriple=aarch46", "did you mean aarch64"),
        ("llvm -num-cores=0", "whole number from 1 to 9999"),
        ("llvm -num-cores=many", "whole number from 1 to 9999"),
        ("cuda", 'as in "cuda -arch=sm_90"'),
        ("cuda -arch=90", "did you mean sm_90"),
        ("cuda -arch=sm_90 -host='cuda -arch=sm_90'", "the host of a cuda target is an llvm"),
        ('{"kind":"llvm"', "is not valid JSON"),
        ('{"mtriple":"aarch64"}', 'needs "kind"'),
        ('{"kind":"llvm","kind":"cuda"}', "gives a key twice"),
        ('{"kind":"llvm","keys":["cpu"]}', "-keys (a key of older TVM releases)"),
        ('{"kind":"llvm","mattr":[1]}', "or a JSON list of them"),
        ('{"kind":"llvm","mcpu":7}', "-mcpu of a target must be a non-empty string, not 7"),
        ('{"kind":"llvm","num-cores":true}', "whole number"),
    ],
)
def test_refusals_say_what_was_got_and_what_is_allowed(text, says):
    with pytest.raises(TargetError) as error:
        parse(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


@settings(max_examples=150, deadline=None, print_blob=True)
@given(st.text(max_size=40))
def test_any_text_gives_a_target_or_a_target_error(text):
    for candidate in (text, f"llvm {text}", f"llvm -mtriple={text}", '{"kind":' + text):
        try:
            target = parse(candidate)
        except TargetError:
            continue
        assert json.loads(target.canonical)["kind"] == target.kind


def test_native_uses_every_feature_that_this_machine_reports():
    target = parse("native")
    have = cpu.cpu_features()
    known = llvm_info.known_features(target.triple)
    assert have & known <= target.features
    assert cpu.missing(target.needs) == ()
    assert target.is_native
    assert target.arch == cpu.machine()
    assert "this machine: " in target.notes[0]
    assert parse("llvm").canonical == target.canonical
    assert parse("llvm -mcpu=native").canonical == target.canonical


def test_native_lets_the_user_take_a_feature_away():
    have = sorted(cpu.cpu_features() - {"sse", "sse2", "fp-armv8", "neon", "vfp3", "d32"})
    if not have:
        pytest.skip("this machine has nothing but its architecture's baseline")
    assert have[-1] not in parse(f"native -mattr=-{have[-1]}").features


def test_native_without_a_name_says_so_once(monkeypatch):
    monkeypatch.setattr(llvm_info, "host_triple", lambda: "aarch64-linux-gnu")
    monkeypatch.setattr(llvm_info, "native_cpu", lambda: ("", ("+dotprod",)))
    assert parse("llvm").notes == (
        "this machine: generic with +dotprod, from the features it reports.",
    )


def test_native_is_only_this_machine():
    other = "aarch64" if cpu.machine() == "x86_64" else "x86_64"
    with pytest.raises(TargetError, match="-mcpu=native means this machine"):
        parse(f"llvm -mtriple={other} -mcpu=native")
    assert not parse(f"llvm -mtriple={other}").is_native


X86 = "x86_64-linux-gnu"


def _usable(name):
    return llvm_info.features(X86, name) & cpu.checkable("x86_64")


def test_amx_is_no_need_of_a_target():
    """Only kernels that use it need it, and say so; LLVM does not use it by itself."""
    target = parse("llvm -mtriple=x86_64 -mcpu=sapphirerapids")
    assert {"amx-tile", "amx-int8", "amx-bf16"} <= target.features
    assert not [name for name in target.needs if name.startswith("amx")]
    assert "avx512fp16" in target.needs


@pytest.mark.parametrize(
    ("have", "mcpu", "mattr"),
    [
        (_usable("sapphirerapids"), "sapphirerapids", ()),
        # A virtual machine that hides AMX: the next name, and what that one lacks.
        (
            _usable("sapphirerapids") - {"amx-tile", "amx-int8", "amx-bf16"},
            "icelake-server",
            ("+avx512bf16", "+avx512fp16", "+avxvnni"),
        ),
        (_usable("skylake-avx512") - {"avx512cd"}, "haswell", ("+avx512bw",)),
        (frozenset({"sse", "sse2", "cmov"}), "x86-64", ()),
    ],
)
def test_the_choice_of_a_name_never_brings_a_feature_the_machine_lacks(have, mcpu, mattr):
    names = (*llvm_info._X86_CPUS["intel"], *llvm_info._X86_LEVELS, "x86-64")
    chosen, extra = llvm_info.choose_cpu(X86, have, names)
    assert chosen == mcpu
    assert set(mattr) <= set(extra)
    assert llvm_info.features(X86, chosen, extra) & cpu.checkable("x86_64") == have


def test_no_fitting_name_leaves_the_generic_cpu():
    have = frozenset({"fp-armv8", "neon", "dotprod"})
    chosen = llvm_info.choose_cpu("aarch64-linux-gnu", have, ("neoverse-v2", "no-such-cpu"))
    assert chosen == ("", ("+dotprod",))


def _popcount_assembly(target):
    import tvm
    from tvm import s_tir, te

    lanes = target.lanes
    x = te.placeholder((64, lanes), "uint32", name="x")
    y = te.compute((64, lanes), lambda i, j: te.popcount(x[i, j]), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    schedule.vectorize(schedule.get_loops(schedule.get_sblock("y"))[1])
    return tvm.compile(schedule.mod, target=target.tvm).mod.inspect_source("asm")


@pytest.mark.parametrize("text", ["avx512", "native", "llvm -mtriple=x86_64 -mcpu=sapphirerapids"])
def test_avx512_code_counts_bits_in_whole_registers(text):
    target = parse(text)
    if "avx512vpopcntdq" not in target.features:
        pytest.skip("this machine has no AVX-512 VPOPCNTDQ")
    assembly = _popcount_assembly(target)
    assert re.search(r"vpopcntd\s[^\n]*%zmm", assembly)
    assert not re.search(r"vpopcntd\s[^\n]*%[xy]mm", assembly)


@pytest.mark.parametrize(
    ("text", "has", "lacks"),
    [
        ("avx2", r"vpshufb\s[^\n]*%ymm", r"%zmm"),
        ("rpi4", r"\bcnt\s+v", r"\budot\b"),
        ("pixel", r"\bcnt\s+v", r"\bptrue\b"),
        ("armv7", r"\bvcnt\.8\s", r"\bblx?\s+__popcountsi2"),
    ],
)
def test_code_uses_the_targets_instructions_and_no_others(text, has, lacks):
    assembly = _popcount_assembly(parse(text))
    assert re.search(has, assembly)
    assert not re.search(lacks, assembly)
