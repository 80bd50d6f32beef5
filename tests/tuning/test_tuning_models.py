"""The runners for CPUs that are not here: counted instructions and modelled cycles."""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.tuning import tiny
from tvm_insta import nn
from tvm_insta.cli import tune
from tvm_insta.compiler import tuner
from tvm_insta.errors import TuneError
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.target import parse
from tvm_insta.tuning import llvm_mca, lookup, runners
from tvm_insta.tuning.assembly import hot_loop
from tvm_insta.tuning.icount import IcountRunner
from tvm_insta.tuning.mca import McaRunner
from tvm_insta.tuning.model import ModelRunner
from tvm_insta.tuning.options import SweepOptions
from tvm_insta.tuning.rpc import RpcRunner
from tvm_insta.tuning.runner import LocalRunner
from tvm_insta.tuning.runners import RUNNERS

A72 = parse("rpi4")
KINDS = (LocalRunner, RpcRunner, IcountRunner, McaRunner, ModelRunner)
needs_mca = pytest.mark.skipif(llvm_mca.find() is None, reason="no llvm-mca")
needs_qemu = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-aarch64", "aarch64-linux-gnu-gcc"))),
    reason="needs qemu-aarch64 and aarch64-linux-gnu-gcc",
)


def test_the_command_line_knows_every_runner():
    assert tuple(tune.UNITS) == RUNNERS


@pytest.fixture(scope="module")
def counter():
    if shutil.which("qemu-aarch64") is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("needs qemu-aarch64 and aarch64-linux-gnu-gcc")
    runner = IcountRunner(A72, run_timeout=20.0)
    yield runner
    runner.close()


@pytest.fixture
def scripted(tmp_path):
    """An icount runner whose emulator is a shell script, in a folder of its own."""

    def make(script):
        emulator = tmp_path / "emulator"
        # -plugin PLUGIN,out=COUNT PROGRAM CALLS INPUT OUT
        emulator.write_text(f"#!/bin/sh\ncount=${{2#*,out=}}; out=$6\n{script}\n")
        emulator.chmod(0o755)
        runner = object.__new__(IcountRunner)
        runner.cpu, runner._timeout, runner._plugin = "script", 20.0, tmp_path / "plugin.so"
        runner._command = [str(emulator)]
        runner.builder = SimpleNamespace(folder=tmp_path)
        runner._references = {"key": [b"ok"]}
        return runner

    return make


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", r"exit code 0, but x\.1\.count cannot be read \(No such file"),
        ("echo 7 > $count", r"exit code 0, but x\.1\.out cannot be read \(No such file"),
        ("printf ok > $out; : > $count", r"exit code 0, but x\.1\.count holds no count"),
        ("printf ok > $out; echo no > $count", "holds no count"),
        ("rm $0; kill $$", "exit code -15"),
        ("printf no > $out; echo 7 > $count", "wrong result"),
    ],
)
def test_whatever_a_program_leaves_is_a_failed_candidate(scripted, tmp_path, script, said):
    """No error goes past the runner; what an earlier run left does not count for a later one."""
    runner, task = scripted(script), SimpleNamespace(key="key")
    for name, text in (("x.1.count", "5"), ("x.1.out", "ok")):
        (tmp_path / name).write_text(text)
    outcome = runner._measure(task, tmp_path / "x.exe")
    assert re.match(f"run: .*{said}", outcome.error)
    assert outcome.wrong == (said == "wrong result")


def test_an_emulator_that_is_gone_is_a_failed_candidate(scripted, tmp_path):
    runner = scripted("exit 0")
    (tmp_path / "emulator").unlink()
    outcome = runner._measure(SimpleNamespace(key="key"), tmp_path / "x.exe")
    assert "cannot be started (No such file" in outcome.error


@pytest.mark.qemu
def test_counts_repeat_and_differ_between_candidates(counter):
    for task in tiny.tasks(A72):
        counter.prepare(task)
        chosen = [task.default, *task.choices[:3]]
        first, second = (dict(counter.measure(task, chosen, 1)) for _ in range(2))
        for tiles in chosen:
            ((one,), (other,)) = first[tiles].run_secs, second[tiles].run_secs
            # Start-up may differ by a few instructions from run to run; a call has thousands.
            assert one == pytest.approx(other, rel=1e-3)
            assert 1e-6 < one < 1e-3
        assert len({round(outcome.run_secs[0] * 1e9) for outcome in first.values()}) > 1
        # The schedule's own choice fills the registers; one sum at a time cannot be as good.
        assert first[task.default].run_secs < first[task.choices[0]].run_secs


@pytest.mark.qemu
def test_a_wrong_result_and_a_foreign_instruction_are_failures(counter, monkeypatch):
    """`sdot` is an instruction of later cores: a cortex-a72 refuses it."""
    task = tiny.tasks(A72)[0]
    counter.prepare(task)
    wrong, foreign, good = task.choices[:3]
    real = counter.builder.build
    bodies = {wrong: "", foreign: '__asm__ volatile(".inst 0x4e829420");'}

    def build(task, candidates):
        from tvm_insta.target.toolchain import find_linker
        from tvm_insta.tuning.build import _MAIN, _arguments

        built = real(task, candidates)
        for index, tiles in enumerate(candidates):
            if tiles in bodies:
                folder = counter.builder.folder / f"bad{index}"
                folder.mkdir()
                (folder / "arguments.h").write_text(_arguments(task.mod, ()))
                source = folder / "kernel.c"
                source.write_text(f"int model_kernel(void) {{ {bodies[tiles]} return 0; }}\n")
                built[index] = folder / "bad.exe"
                find_linker(A72).link_program(
                    [_MAIN, source], built[index], "-I", str(folder), static=True
                )
        return built

    monkeypatch.setattr(counter.builder, "build", build)
    found = dict(counter.measure(task, [wrong, foreign, good], 1))
    assert "wrong result" in found[wrong].error
    assert "exit code -4" in found[foreign].error  # SIGILL
    assert not found[good].error


@pytest.mark.qemu
def test_a_sweep_by_instructions_tunes_an_aarch64_compilation(counter, tmp_path):
    chosen = tiny.tasks(A72)
    tuned = tiny.sweep(tmp_path, counter, target=A72, chosen=chosen, trials=24, search="random")
    assert (tuned.meta.unit, tuned.meta.runner) == ("instructions", "icount")
    assert tuned.meta.cpu == "qemu-aarch64 -cpu cortex-a72" and tuned.meta.peak is None
    assert all(state.best[1] <= state.default for state in tuned.states)
    found = lookup.look_up(tiny.network(A72), A72, tmp_path)
    assert set(found.states.values()) == {lookup.TUNED}
    assert lookup.look_up(tiny.network(tiny.NATIVE), tiny.NATIVE, tmp_path) == lookup.Lookup()


@pytest.mark.slow
@pytest.mark.qemu
def test_every_layer_of_an_arm_network_is_a_task(tmp_path):
    """Binary kernels of NEON too, with rows that are cut unevenly: 7 pixels are 4 + 3."""
    if shutil.which("qemu-aarch64") is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("needs qemu-aarch64 and aarch64-linux-gnu-gcc")
    target = parse("cortex-a76")
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 32, 3), nn.InstaThreshold(32), nn.BinaryConv2d(32, 64, 3, padding=1)
    made = tuner.Network(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3, 9, 9), target)
    runner = IcountRunner(target, run_timeout=20.0)
    sweep = SweepOptions(trials=9, final_repeats=3, search="random")
    options = tuner.TuneOptions(target.text, tmp_path, sweep=sweep)
    try:
        tuned = tuner.tune_network(made, runner, options, tiny.Silent(), say=print)
    finally:
        runner.close()
    assert [s.task.rule for s in tuned.states] == ["insta_fconv", "insta_pack", "insta_bconv"]
    assert tuned.states[2].task.default.width_tile == 4
    assert all(state.describe().failed == 0 and state.best for state in tuned.states)
    fused = run_pipeline(made.imported, Context(target), last="fuse").mod
    assert list(lookup.look_up(fused, target, tmp_path).states.values()) == [lookup.TUNED] * 3


def test_no_emulator_is_named():
    with pytest.raises(TuneError, match="runner icount needs an emulator for 'avx2'"):
        IcountRunner(parse("avx2"))


@pytest.mark.slow
@pytest.mark.qemu
@needs_qemu
@needs_mca
def test_modelled_cycles_prefer_what_fills_the_registers():
    runner = McaRunner(A72)
    try:
        for task in tiny.tasks(A72):
            runner.prepare(task)
            found = dict(runner.measure(task, [task.default, task.choices[0]], 5))
            figures = [found[tiles].run_secs for tiles in (task.default, task.choices[0])]
            assert figures[0] < figures[1]
            # 10000 multiply-adds: between 128 a cycle (binary) and one in 10 cycles.
            assert all(10_000 / 128 * 1e-9 < f[0] < 1e-4 for f in figures)
    finally:
        runner.close()


@pytest.mark.slow
@pytest.mark.qemu
@needs_qemu
@needs_mca
def test_a_schedule_that_is_wrong_is_not_modelled(monkeypatch):
    runner = McaRunner(A72)
    try:
        task = tiny.tasks(A72)[0]
        runner.prepare(task)
        real = runner._check.builder.build
        monkeypatch.setattr(
            runner._check.builder, "build", lambda task, tiles: ["build: broken"] * len(tiles)
        )
        ((_, outcome),) = runner.measure(task, [task.default], 5)
        assert outcome.error == "build: broken"
        monkeypatch.setattr(runner._check.builder, "build", real)
        ((_, outcome),) = runner.measure(task, [task.default], 5)
        assert not outcome.error
    finally:
        runner.close()


@needs_mca
def test_a_cpu_without_a_model_is_named():
    with pytest.raises(TuneError, match="names none: add"):
        McaRunner(parse("llvm -mtriple=aarch64-linux-gnu"))
    with pytest.raises(TuneError, match=r"llvm-mca.* cannot model this"):
        McaRunner(replace(A72, mcpu="abacus"))


X86 = """
kernel:
.LBB0_1:
	movl	$9, %ecx
.LBB0_2:
	vpxord	(%rdi), %zmm1, %zmm2
	vpopcntd	%zmm2, %zmm2
	vpaddd	%zmm2, %zmm0, %zmm0
	vpxord	64(%rdi), %zmm1, %zmm3
	vpopcntd	%zmm3, %zmm3
	vpxor	%xmm4, %xmm4, %xmm4
	decl	%ecx
	jne	.LBB0_2
.LBB0_3:
	vpxor	%ymm1, %ymm2, %ymm3
	jne	.LBB0_3
	jmp	.LBB0_1
"""
ARM = """
kernel:
.LBB0_4:
	ldr	q1, [x0], #16
	fmla	v0.4s, v1.4s, v2.s[0]
	fmla	v3.4s, v1.4s, v2.s[1]
	fmla	v5.2s, v1.2s, v2.s[1]
	cbnz	x3, .LBB0_4
"""


def test_the_hot_loop_is_the_inner_one_with_most_work():
    """The zeroing idiom is no step, and the loop around does not count."""
    loop = hot_loop(X86, "insta_bconv")
    assert loop.macs == 1024
    assert loop.lines[0].startswith("vpxord (%rdi)") and loop.lines[-1] == "jne .LBB0_2"
    assert len(loop.lines) == 8


def test_the_hot_loop_of_a_float_kernel_counts_lanes():
    loop = hot_loop(ARM, "insta_fconv")
    assert loop.macs == 4 + 4 + 2 and len(loop.lines) == 5


def test_assembly_without_such_a_loop_is_an_error():
    with pytest.raises(TuneError, match="no loop with vector multiply-accumulates"):
        hot_loop(ARM, "insta_bconv")


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize(("words", "seconds"), [([], None), (["--run-timeout", "7"], 7.0)])
def test_each_runner_has_a_time_limit_of_its_own(monkeypatch, name, words, seconds):
    """The command line gave all of them 30 s; the emulation that `model` needs takes longer."""
    asked = {}

    def stop(*_, **limits):
        asked.update(limits)
        raise TuneError("stop")

    for kind in ("LocalRunner", "IcountRunner", "McaRunner", "ModelRunner", "RpcRunner"):
        monkeypatch.setattr(runners, kind, stop)
    target = parse("cuda -arch=sm_90" if name == "model" else "native")

    def make(module, examples, options, bar, max_batch):
        return runners.make_runner(name, target, options.runners)

    monkeypatch.setattr(tuner, "tune", make)
    key = ["--key", "k"] if name == "rpc" else []
    argv = ["--model", "resnet20", "--target", target.text, "--runner", name, *key, *words]
    args = argparse.ArgumentParser()
    tune.add_arguments(args)
    with pytest.raises(TuneError, match="stop"):
        tune.run_tune(args.parse_args(argv))
    assert asked.get("run_timeout") == seconds


def test_the_models_limit_is_longer():
    limits = [inspect.signature(kind).parameters["run_timeout"].default for kind in KINDS]
    assert limits == [30.0, 30.0, 30.0, 30.0, 120.0]
