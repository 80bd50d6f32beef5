"""The kernels of `test_kernels` in the second tier: everywhere, also where there is no nvcc."""

from __future__ import annotations

import functools
import re

import pytest

from tests.cuda_emulator.harness import require_compiler
from tests.cuda_emulator.test_kernels import (
    BINARY,
    RUNS,
    TILED,
    BitserialConv2dBlocked,
    binary_function,
    blocked_arguments,
    run_binary,
    runs_arguments,
    runs_function,
    symbol,
    te_bitserial_conv2d_blocked,
)
from tests.support.cuda_kernels import Kernels
from tvm_insta import cuda_emulator
from tvm_insta.cuda_emulator import EmulatorError, Options, Order, cuda_c
from tvm_insta.schedules.cuda.bind import tiles_of
from tvm_insta.target import parse

pytestmark = pytest.mark.slow


def blocked_function(case):
    return binary_function(
        case, te_bitserial_conv2d_blocked, BitserialConv2dBlocked, blocked_arguments
    )


FAMILIES = {
    "sm_80": (RUNS, runs_function, runs_arguments),
    "sm_120": (RUNS, runs_function, runs_arguments),
    "sm_75": (BINARY, blocked_function, blocked_arguments),
}


@functools.cache
def kernels_of(arch):
    """The kernels of one architecture: compiled once, all cases together."""
    cases, function, _ = FAMILIES[arch]
    functions = {symbol(name): function(case) for name, case in cases.items()}
    return Kernels(functions, arch, source_only=True)


@pytest.mark.parametrize(
    ("arch", "name"),
    [(arch, name) for arch, (cases, *_) in FAMILIES.items() for name in cases],
)
def test_binary_convolutions(arch, name):
    """In one order of threads: `test_kernels` has all of them, where nvcc is."""
    require_compiler()
    options = Options(Order.SHUFFLED, seed=len(name))
    run_binary(kernels_of(arch), name, BINARY[name], FAMILIES[arch][2], 2, options)


@pytest.mark.parametrize("arch", ["sm_90", "sm_75"])
def test_every_barrier_is_missed(arch, monkeypatch):
    """Each barrier of each kernel, cut out in turn: a race, in at least one order of threads."""
    require_compiler()
    _, function, arguments = FAMILIES["sm_80" if arch == "sm_90" else arch]
    made = function(TILED)
    tiles = tiles_of(made, parse(f"cuda -arch={arch}").tvm)[1]
    source = Kernels({"k_tile": made}, arch, {"k_tile": tiles[0]}, source_only=True).source
    barriers = [found.span() for found in re.finditer(r"__syncthreads\(\);", source)]
    assert barriers
    for start, end in barriers:
        cut = cuda_c.image(source[:start] + source[end:], arch).decode()
        monkeypatch.setattr(cuda_emulator.device, "ptx_at", lambda _, text=cut: text)
        kernels = Kernels({"k_tile": made}, arch, {"k_tile": tiles[0]}, source_only=True)
        with pytest.raises(EmulatorError, match=r"race in (shared|global) memory"):
            for order in Order:
                run_binary(kernels, "tile", TILED, arguments, 1, Options(order))
