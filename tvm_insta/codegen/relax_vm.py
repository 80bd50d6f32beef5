"""The vm form: a network as a Relax virtual machine module, for any batch size.

`model.so` holds byte code, constants and kernels; the TVM runtime (libtvm_runtime, libtvm_ffi)
loads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from tvm_insta.codegen import profile as timers
from tvm_insta.codegen.cuda_device import device_compiler, device_modules, find_nvcc
from tvm_insta.codegen.driver import check_name
from tvm_insta.codegen.needs import all_needs
from tvm_insta.codegen.program import CodegenError, Parts, Program, extract
from tvm_insta.codegen.raw import keep_small_arrays_on_stack
from tvm_insta.codegen.vm_tensors import overwrite, share_tensors
from tvm_insta.schedules import back_end
from tvm_insta.target import InstaTarget
from tvm_insta.target.toolchain import Linker, find_linker

_STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-g0")
TIR_PIPELINE = "tvm_insta"
"""Name of the pass pipeline that lowers PrimFuncs for CPUs, registered with TVM."""
_OWN_ARGUMENTS = "insta.own_arguments"
"""Attribute of kernels that get no tensor from outside of their module."""


@dataclass(frozen=True)
class VmForm:
    """What `vm_form` wrote."""

    program: Program
    files: tuple[str, ...]
    """File names in the output folder."""
    needs: tuple[str, ...]
    """CPU features (LLVM names) that a machine must have; the loader checks them."""


def require(target: InstaTarget, name: str) -> Linker:
    """Refuse what this form cannot do, before any work is done for it.

    Raises:
        CodegenError: the name cannot be a file's and a C function's, or wasm32 is the target.
        ToolchainError: there is no linker for the target, or no nvcc for a CUDA target.
    """
    check_name(name)
    if target.arch == "wasm32":
        raise CodegenError(
            "the vm form is a shared library, which wasm32 does not have; use --runtime c"
        )
    if back_end(target.tvm).device_code:
        find_nvcc()
    return find_linker(target)


def vm_form(
    mod: tvm.IRModule,
    target: InstaTarget,
    out_dir: Path | str,
    name: str = "model",
    *,
    linker: Linker | None = None,
    parts: Parts = (),
    profile: bool = False,
) -> VmForm:
    """Compile `mod` to `<name>.so` in `out_dir`; the function `main` runs the network.

    Args:
        mod: Relax function `main`, one dataflow of `call_tir` on scheduled PrimFuncs, which are
            compiled as they stand; the batch may be symbolic; constants inline, one output.
        target: a CPU or CUDA target.
        out_dir: created if missing. Inside `staging.staged` it appears complete or not at all.
        name: file name without ending.
        linker: default `tvm_insta.target.toolchain.find_linker(target)`.
        parts: name and shape of each output, where the function returns several behind each other.
        profile: count the time of each kernel, see `codegen.profile`.

    Raises:
        CodegenError: if the module does not have that form, or for `profile` on a CUDA target.
        ToolchainError: if linking fails.
    """
    linker = linker or require(target, name)
    program = extract(mod, parts=parts)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if profile and back_end(target.tvm).device_code:
        raise CodegenError(
            f"got profile for {target.text}, but the counters are for CPUs: compile without it"
        )
    kernels = timers.instrumented(mod, program, name) if profile else mod
    executable = build_executable(kernels, target, program)
    shared = folder / f"{name}.so"

    def link(out: str, objects: Iterable[str], **_: object) -> None:
        files = [Path(item) for item in objects]
        if profile:
            source = timers.table(program, name, files[0].parent)
            linker.compile_c(source, source.with_suffix(".o"), *_STRICT)
            files.append(source.with_suffix(".o"))
        linker.link_shared(files, Path(out), "-Wl,--strip-debug", "-Wl,--as-needed", "-lm")

    executable.export_library(str(shared), fcompile=link)
    return VmForm(program, (shared.name,), all_needs(mod, target))


def build_executable(
    mod: tvm.IRModule, target: InstaTarget, program: Program | None = None
) -> relax.VMExecutable:
    """Compile `mod`, whose kernels are taken as they stand, to a VM executable.

    Args:
        mod: as in `vm_form`.
        target: a CPU or CUDA target.
        program: what `extract` read in `mod`; None reads it.
    """
    device = back_end(target.tvm).device_code
    known = None if device else program or extract(mod)
    with device_compiler(target) if device else nullcontext():
        # Byte code, not compiled code: a trace needs the VM to call kernels one by one.
        executable = relax.build(
            mod if known is None else _marked(mod, known),
            target=target.tvm,
            relax_pipeline=_lowering(known),
            # The local arrays of a kernel's host half are memory of the device, never the stack's.
            tir_pipeline="s_tir" if device else TIR_PIPELINE,
            exec_mode="bytecode",
        )
    if device and not device_modules(executable.mod):
        raise CodegenError("no kernel was compiled to device code: the module calls none")
    return executable


def _marked(mod: tvm.IRModule, program: Program) -> tvm.IRModule:
    """Kernels whose arguments are all the module's own, marked for `_tir_pipeline`.

    The VM gives them what it allocated, in the shapes that it computed: their checks of arguments,
    most of their machine code, could never fail. What reads an input of the network checks it.
    """
    reading = {
        call.symbol for call in program.calls if any(ref.kind == "input" for ref in call.args)
    }
    inner = {call.symbol for call in program.calls} - reading
    marked = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    for var, func in mod.functions.items():
        if var.name_hint in inner:
            marked[var] = func.with_attr(_OWN_ARGUMENTS, True)
    return marked


def _lowering(program: Program | None) -> tvm.transform.Pass:
    """Relax's build pipeline without the steps that legalise: the kernels are scheduled already.

    Args:
        program: what the module computes, to let kernels write over arguments; None lets none.
    """
    transform = relax.transform
    return tvm.transform.Sequential(
        [
            transform.RewriteDataflowReshape(),
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            *([] if program is None else [overwrite(program)]),
            transform.StaticPlanBlockMemory(),
            share_tensors(),
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


def _tir_pipeline() -> tuple[tvm.transform.Pass, Any, Any]:
    """TVM's own pipeline for scheduled PrimFuncs; small local arrays stay on the stack."""
    pipeline, finish_host, finish_device = tvm.tirx.get_tir_pipeline("s_tir")

    def lower(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        lowered = pipeline(mod)
        kept = {}
        for var, func in lowered.functions.items():
            on_host = isinstance(func, tirx.PrimFunc) and _runs_on_cpu(func)
            kept[var] = _without_checks(keep_small_arrays_on_stack(func)) if on_host else func
        return tvm.IRModule(kept, attrs=lowered.attrs)

    return tvm.transform.module_pass(lower, opt_level=0), finish_host, finish_device


def _without_checks(func: tirx.PrimFunc) -> tirx.PrimFunc:
    if not (func.attrs and func.attrs.get(_OWN_ARGUMENTS, False)):
        return func
    return tirx.transform.SkipAssert()(tvm.IRModule({"kernel": func}))["kernel"]


def _runs_on_cpu(func: tirx.PrimFunc) -> bool:
    target = func.attrs.get("target", None)
    return target is not None and target.kind.name == "llvm"


register_tir_pipeline(TIR_PIPELINE, _tir_pipeline)
