"""Architectures beyond x86 and Arm, through the generic schedules: integers of the oracle."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cross.emulated import assert_like_here
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
from tvm_insta.codegen import relax_vm, wasm
from tvm_insta.codegen.bundle import write_bundle
from tvm_insta.codegen.plain_c import c_form
from tvm_insta.codegen.program import CodegenError
from tvm_insta.errors import ArtefactError
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import fuse, run_phase
from tvm_insta.schedules import schedule_module
from tvm_insta.target import parse
from tvm_insta.target.toolchain import find_linker

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"


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
WASM32 = Zig(
    "wasm32",
    "llvm -mtriple=wasm32",
    "",
    ("node", "--no-warnings", str(EXAMPLES / "wasi.js")),
)
CASES = ("3x3 padded", "5x5, odd channels", "groups", "2 bits unsigned")


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [RISCV64, WASM32], ids=lambda machine: machine.name)
@pytest.mark.parametrize("kind", ["words", "integers"])
def test_the_oracles_integers(kind, machine, tmp_path):
    machine.require()
    rng = np.random.default_rng(0)
    networks = (
        [packing_network(case, (*VALUES, *SUBNORMAL), rng) for case in list(PACKS.values())[:3]]
        if kind == "words"
        else [convolution_network(CONVOLUTIONS[name], rng) for name in CASES]
    )
    for number, (mod, x, expected) in enumerate(networks):
        folder = tmp_path / str(number)
        found = run_compiled(machine, parse(machine.target), mod, x, expected, folder, None)
        assert found.tobytes() == expected.tobytes(), number


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [RISCV64, WASM32], ids=lambda machine: machine.name)
def test_the_digits_network(machine, digits, compiled):
    machine.require()
    assert_like_here(machine, digits, compiled)


@pytest.mark.qemu
def test_the_c_example_in_node(digits, compiled, tmp_path):
    """With files named from the folder that it runs in, and with more threads than there are."""
    WASM32.require()
    _, images, expected = digits
    folder, program = compiled(WASM32), tmp_path / "plain_c.wasm"
    parts = [EXAMPLES / "plain_c.c", folder / "model.a"]
    strict = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{folder}", "-lm")
    find_linker(parse(WASM32.target)).link_program(parts, program, *strict)
    (tmp_path / "batch.raw").write_bytes(images[:3].tobytes())
    command = [*WASM32.emulator, program.name, "batch.raw"]
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    text = run(command, check=True).stdout
    for row in expected[:3]:
        assert f"class {row.argmax()}" in text, text
    refused = run([*command, "2"], check=False)
    assert refused.returncode == 1 and "one thread is used" in refused.stderr, refused


def test_a_wasm_artefact_has_no_shared_library(tmp_path):
    """And what its kernels lack is read from the object, as it is from ELF files."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip('the ziglang wheel is not installed (pip install "tvm-insta[cross]")')
    source, made = tmp_path / "a.c", tmp_path / "a.o"
    source.write_text(
        "extern int TVMLacking(int); static int hidden; int *TVMWeak __attribute__((weak));\n"
        "int known(void) { return TVMLacking(hidden++) + *TVMWeak; }\n"
    )
    find_linker(parse(WASM32.target)).compile_c(source, made, "-O1")
    names = wasm.visible(made)
    assert {"TVMLacking", "TVMWeak", "known"} <= set(names) and "hidden" not in names
    made.write_bytes(made.read_bytes()[:-40])
    with pytest.raises(CodegenError, match="ends within a section"):
        wasm.visible(made)
    with pytest.raises(CodegenError, match="no WebAssembly object"):
        wasm.visible(source)
    mod, _, _ = convolution_network(CONVOLUTIONS["1x1"], np.random.default_rng(0))
    target = parse(WASM32.target)
    kernels = fuse(run_phase("lower", mod, Context(target)))
    scheduled, _ = schedule_module(kernels, target.tvm, lanes=target.lanes)
    assert c_form(scheduled, target, tmp_path / "out").files == ("model.a", "model.h")


def test_what_wasm32_cannot_do_is_said(tmp_path):
    target = parse(WASM32.target)
    with pytest.raises(CodegenError, match="use --runtime c"):
        relax_vm.require(target, "model")
    with pytest.raises(ArtefactError, match="zig cc -target wasm32-wasi"):
        write_bundle(tmp_path, tmp_path / "bundle", target)
