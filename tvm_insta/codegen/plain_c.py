"""The plain-C form: a network as one C library without dependencies.

`model.so` and `model.a` hold the kernels (LLVM), the driver (C) and the weights; `model.h` is the
interface. Nothing but libc and libm is needed at run time, and that is checked after linking.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tvm

from tvm_insta.codegen import driver, in_place, raw
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.needs import all_needs
from tvm_insta.codegen.plan import Plan, code_symbol, make_plan
from tvm_insta.codegen.program import CodegenError, Parts, extract
from tvm_insta.runtime.manifest import Memory
from tvm_insta.schedules import back_end
from tvm_insta.target import InstaTarget
from tvm_insta.target.toolchain import Linker, find_linker

_SYSTEM_LIBRARY = re.compile(r"lib[cm]\.so|lib[cm]\.so\.\d+|libc\.musl-.*|ld-.*|ld64.*")
_STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-g0")


@dataclass(frozen=True)
class CForm:
    """What `c_form` wrote."""

    plan: Plan
    files: tuple[str, ...]
    """File names in the output folder: shared library, static library, header."""
    needs: tuple[str, ...]
    """CPU features (LLVM names) that a machine must have; `<name>_init` checks them."""

    @property
    def memory(self) -> Memory:
        """What the manifest says about memory."""
        plan = self.plan
        return Memory(
            weights=len(plan.blob),
            arena=plan.arena_bytes,
            kernel=plan.program.calls[plan.peak.call].symbol,
            alive=plan.peak.alive,
            scratch=plan.peak.scratch,
            thread=plan.thread_bytes,
        )

    @property
    def working_set(self) -> int:
        """Bytes of memory that one run touches beside code: arena and constants."""
        return self.plan.arena_bytes + len(self.plan.blob)


def require(target: InstaTarget, name: str) -> Linker:
    """Refuse what this form cannot do, before any work is done for it.

    Raises:
        CodegenError: the target is no CPU, or the name cannot prefix C functions.
        ToolchainError: there is no linker for the target.
    """
    driver.check_name(name)
    if back_end(target.tvm).device_code:
        raise CodegenError(
            f"the plain-C form is for CPUs (kind llvm), not for {target.kind}; use the vm form"
        )
    return find_linker(target)


def c_form(
    mod: tvm.IRModule,
    target: InstaTarget,
    out_dir: Path | str,
    name: str = "model",
    *,
    linker: Linker | None = None,
    parts: Parts = (),
    profile: bool = False,
) -> CForm:
    """Compile `mod` to `<name>.so`, `<name>.a` and `<name>.h` in `out_dir`; no .so for wasm32.

    Args:
        mod: Relax function `main`, one dataflow of `call_tir` on scheduled PrimFuncs; static shapes
            with batch 1, constants inline, one output.
        target: a CPU target.
        out_dir: created if missing. Inside `staging.staged` it appears complete or not at all.
        name: prefix of files and of every public C name.
        linker: default `tvm_insta.target.toolchain.find_linker(target)`.
        parts: name and shape of each output, where the function returns several behind each other.
        profile: count the time of each kernel, see `codegen.profile`.

    Raises:
        CodegenError: if the module does not have that form or would need the TVM runtime.
        ToolchainError: if compiling or linking fails.
    """
    linker = linker or require(target, name)
    program = extract(mod, parts=parts)
    for spec in (*program.inputs, *program.values):
        _ = spec.nbytes  # refuses symbolic shapes before anything is compiled
    symbols = {call.symbol for call in program.calls}
    overwrites = in_place.choose(program, {symbol: mod[symbol] for symbol in symbols})
    needs = all_needs(mod, target)
    functions = {}
    for call, over in zip(program.calls, overwrites, strict=True):
        function = mod[call.symbol]
        if over is not None:
            function = in_place.overwriting(function, over, len(call.args))
        functions[code_symbol(call.symbol, over)] = function
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tvm_insta-") as build:
        work = Path(build)
        ordered = {symbol: functions[symbol] for symbol in sorted(functions)}
        kernels = raw.lower(ordered, target.tvm, name, work / f"{name}_kernels.o")
        plan = make_plan(program, kernels.kernels, overwrites)
        files = driver.write_driver(plan, name, target.arch, needs, work, profile=profile)
        driver_object = work / f"{name}_driver.o"
        weights = f'-D{name.upper()}_WEIGHTS_FILE="{files.weights}"'
        linker.compile_c(files.source, driver_object, *_STRICT, weights)
        header = folder / f"{name}.h"
        header.write_bytes(files.header.read_bytes())
        objects = [driver_object, kernels.object_file]
        shared, static = folder / f"{name}.so", folder / f"{name}.a"
        made = (static.name, header.name)
        if target.arch == "wasm32":  # has neither shared libraries nor threads
            linker.archive(objects, static)
            return CForm(plan=plan, files=made, needs=needs)
        # An archive gives a program only what it calls: one without threads needs no POSIX threads.
        # The shared library holds everything, so there these functions are weak.
        threads = [work / f"{name}_threads.o", work / f"{name}_threads_weak.o"]
        weak = f"-D{name.upper()}_WEAK_PTHREAD"
        for path, flags in zip(threads, ((), (weak,)), strict=True):
            linker.compile_c(files.threads, path, *_STRICT, "-pthread", *flags)
        linker.link_shared(
            [*objects, threads[1]], shared, *_link_flags(name, work, profile=profile)
        )
        linker.archive([*objects, threads[0]], static)
        _refuse_foreign_libraries(shared)
    return CForm(plan=plan, files=(shared.name, *made), needs=needs)


def _link_flags(name: str, work: Path, *, profile: bool) -> tuple[str, ...]:
    script = work / f"{name}.map"
    exported = " ".join(f"{symbol};" for symbol in driver.public_symbols(name, profile=profile))
    script.write_text(f"{{ global: {exported} local: *; }};\n", "utf-8")
    return (
        f"-Wl,--version-script={script}",
        f"-Wl,-soname,{name}.so",
        "-Wl,--no-undefined",
        "-Wl,--strip-debug",
        "-Wl,--as-needed",
        "-lm",
    )


def _refuse_foreign_libraries(path: Path) -> None:
    foreign = [lib for lib in ElfFile(path).needed() if not _SYSTEM_LIBRARY.fullmatch(lib)]
    if foreign:
        raise CodegenError(
            f"{path.name} needs {', '.join(foreign)}, but the plain-C form may need libc and libm "
            "only; link with another tool chain"
        )
