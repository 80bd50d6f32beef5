"""Targets this machine need not run: Arm kernels as assembly, CUDA kernels as device code."""

from __future__ import annotations

import re
import shutil

import pytest
import tvm
from tvm import relax
from tvm_ffi import structural_hash

from tests.schedules.test_schedules_pack import pack
from tests.support.schedule_nets import (
    binary_conv,
    compile_function,
    float_conv,
    legalise,
    module,
    scheduled,
)
from tvm_insta import ops
from tvm_insta.schedules import back_end, schedule_module
from tvm_insta.schedules.base import BinarySum
from tvm_insta.schedules.generic.backend import GENERIC

A64 = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}
A32 = {
    "kind": "llvm",
    "mtriple": "armv7l-linux-gnueabihf",
    "mfloat-abi": "hard",
    "mattr": ["+neon"],
}
ARM = {
    "cortex-a53": {**A64, "mcpu": "cortex-a53"},
    "cortex-a72": {**A64, "mcpu": "cortex-a72"},
    "armv7": {**A32, "mcpu": "cortex-a9"},
}
CUDA = tvm.target.Target(
    {
        "kind": "cuda",
        "arch": "sm_90",
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
    },
    host={"kind": "llvm"},
)
NHWC = {"layout": "NHWC"}


def moments():
    specs = [("x", [1, 14, 14, 64], "float32")]
    return module(specs, lambda emit, x: emit(ops.moments(x, orders=[3])))


def max_pool():
    specs = [("x", [1, 12, 12, 64], "float32")]
    pool = relax.op.nn.max_pool2d
    return module(specs, lambda emit, x: emit(pool(x, (3, 3), (2, 2), (1, 1, 1, 1), **NHWC)))


def kernels(lanes):
    return {
        "insta_bconv": binary_conv(14, 14, 64, 64, lanes=lanes, batch=None, epilogue=True),
        "insta_fconv": float_conv(15, 15, 3, 32, lanes=lanes, kernel=7, stride=2, padding=3),
        "insta_pack": pack(48, pad=(1, 1, 1, 1), batch=None, per_instance=True),
        "moments": moments(),
        "pool": max_pool(),
    }


@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("rule", kernels(4))
def test_arm_kernels_compile(rule, name):
    target = tvm.target.Target(ARM[name])
    _, result, record = scheduled(kernels(4)[rule], target, 4)
    assert (record.rule, record.reason) == (rule, "")
    asm = compile_function(result, target).mod.inspect_source("asm")
    if rule == "insta_bconv":
        assert re.search(r"\bvcnt\.8\b" if name == "armv7" else r"\bcnt\s+v", asm)


@pytest.mark.parametrize(
    ("name", "spill"),
    [("cortex-a72", r"(str|ldr)\s+q\d+, \[sp"), ("armv7", r"v(st1|ld1)\.\d+\s+\{[^}]*\}, \[sp")],
)
def test_arm_sums_stay_in_registers(name, spill):
    """Between the first and the last popcount of the kernel no vector goes to the stack."""
    target = tvm.target.Target(ARM[name])
    _, result, _ = scheduled(binary_conv(14, 14, 256, 64, lanes=4), target, 4)
    lines = compile_function(result, target).mod.inspect_source("asm").splitlines()
    counts = [i for i, line in enumerate(lines) if re.search(r"\bv?cnt(\.8)?\s", line)]
    assert counts
    assert not [x for x in lines[counts[0] : counts[-1]] if re.search(spill, x)]


def test_family():
    names = {
        name: back_end(tvm.target.Target(options)).family.name for name, options in ARM.items()
    }
    assert names == {"cortex-a53": "neon", "cortex-a72": "neon", "armv7": "armv7"}
    x86 = {"icelake-server": "avx512", "znver4": "avx512", "haswell": "avx2", "x86-64": "sse"}
    for mcpu, family in x86.items():
        assert back_end(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})).family.name == family
    # AVX-512 without its popcount looks bits up, as older families do.
    skylake, icelake = (
        back_end(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})).family
        for mcpu in ("skylake-avx512", "icelake-server")
    )
    assert (skylake.name, skylake.binary) == ("avx512", BinarySum.NIBBLES)
    assert (icelake.name, icelake.binary) == ("avx512", BinarySum.WORDS)
    riscv = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64"}
    assert back_end(tvm.target.Target(riscv)).family is GENERIC


def test_the_module_is_not_changed_and_relax_functions_stay():

    plain = legalise(binary_conv(7, 7, 32, 16, lanes=8, epilogue=True))
    before = structural_hash(plain)
    result, _ = schedule_module(plain, tvm.target.Target("llvm"), lanes=4)
    assert structural_hash(plain) == before
    tvm.ir.assert_structural_equal(plain["main"], result["main"], map_free_vars=True)


@pytest.mark.cuda
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("rule", kernels(16))
def test_cuda_kernels_compile_to_device_code(rule, monkeypatch):
    monkeypatch.setenv("TVM_CUDA_COMPILE_MODE", "nvcc")
    _, result, record = scheduled(kernels(16)[rule], CUDA, 32)
    assert (record.rule, record.reason) == (rule, "")
    with CUDA:
        device = compile_function(result, CUDA).mod.imports[0]
    assert device.kind == "cuda"
    source = device.inspect_source("cuda")
    assert source.count("__global__") >= 1
    if rule == "insta_bconv":
        assert "__popc" in source


@pytest.mark.cuda
def test_cuda_sums_are_not_split_over_threads():
    _, result, _ = scheduled(moments(), CUDA, 32)
    assert "rf" not in [w for w in re.findall(r"\w+", result.script()) if w.endswith("rf")]
    # Shared memory holds whole sums. Their order is shown by their bytes in tests/cuda_emulator.
    assert "allreduce" not in result.script()
