"""Architectures beyond x86 and Arm, through the generic schedules: integers of the oracle."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from tests.cross.machines import RUNNER, Machine
from tests.cross.test_integers import (
    CONVOLUTIONS,
    PACKS,
    SUBNORMAL,
    VALUES,
    convolution_network,
    packing_network,
    run_compiled,
)
from tvm_insta.target import parse
from tvm_insta.toolchain import find_linker


class Zig(Machine):
    """A machine whose programs the ziglang wheel links."""

    def require(self):
        if importlib.util.find_spec("ziglang") is None:
            pytest.skip('the ziglang wheel is not installed (pip install "tvm-insta[cross]")')
        if shutil.which(self.emulator[0]) is None:
            pytest.skip(f"{self.emulator[0]} is not installed")

    def link(self, folder):
        program = folder / "runner"
        parts, flags = [RUNNER, folder / "model.a"], ["-O2", f"-I{folder}", "-lm"]
        find_linker(parse(self.target)).link_program(parts, program, *flags, static=True)
        return program


RISCV64 = Zig("riscv64", "llvm -mtriple=riscv64", "", ("qemu-riscv64",))
CASES = ("3x3 padded", "5x5, odd channels", "groups", "2 bits unsigned")


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["words", "integers"])
def test_riscv64(kind, tmp_path):
    RISCV64.require()
    rng = np.random.default_rng(0)
    networks = (
        [packing_network(case, (*VALUES, *SUBNORMAL), rng) for case in list(PACKS.values())[:3]]
        if kind == "words"
        else [convolution_network(CONVOLUTIONS[name], rng) for name in CASES]
    )
    for number, (mod, x, expected) in enumerate(networks):
        folder = tmp_path / str(number)
        found = run_compiled(RISCV64, parse(RISCV64.target), mod, x, expected, folder, None)
        assert found.tobytes() == expected.tobytes(), number
