"""From scheduled PrimFuncs to C functions on raw pointers, in one object file.

`int32_t <name>_<kernel>(arguments..., outputs..., scratch...)` returns 0; every parameter is a
pointer to memory that is aligned to 64 bytes, and nothing that is written overlaps another
parameter. Nothing of TVM is needed at run time:

- parallel loops run serially (the plain-C form has no thread pool);
- small local arrays live on the stack, large ones become trailing `scratch` parameters, which the
  caller takes from its arena; so no kernel allocates memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx.build import codegen_build

from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.program import CodegenError

STACK_BYTES = 8192
"""Local arrays up to this size stay on the stack, where LLVM can keep them in registers.

The largest accumulator tile that fits a register file is 2 KiB (32 registers of 64 bytes).
"""

_RAW_POINTERS = 3  # TVM's calling convention without argument packing
_CPU = 1  # kDLCPU


@dataclass(frozen=True)
class RawKernels:
    """The object file and what its functions take beside their arguments and outputs."""

    object_file: Path
    scratch: dict[str, tuple[int, ...]]
    """Kernel symbol (without prefix) -> bytes of each scratch parameter."""


def lower(
    functions: dict[str, tirx.PrimFunc], target: tvm.target.Target, prefix: str, out: Path
) -> RawKernels:
    """Compile `functions` (symbol -> scheduled PrimFunc with static shapes) into the object `out`.

    The C name of kernel `k` is `<prefix>_k`.

    Raises:
        CodegenError: for a scalar parameter, a dynamic local array, or a symbol of the TVM runtime
            that is left over.
    """
    compiled, scratch = _compile(functions, target, prefix)
    compiled.write_to_file(str(out))
    _refuse_runtime_calls(out, prefix)
    return RawKernels(out, scratch)


def assembly(functions: dict[str, tirx.PrimFunc], target: tvm.target.Target) -> str:
    """The machine code of `lower`, as text."""
    compiled, _ = _compile(functions, target, "model")
    return str(compiled.inspect_source("asm"))


def _compile(
    functions: dict[str, tirx.PrimFunc], target: tvm.target.Target, prefix: str
) -> tuple[Any, dict[str, tuple[int, ...]]]:
    raw = {name: _raw_pointers(name, serial(func), prefix) for name, func in functions.items()}
    pipeline, finalise, _ = tvm.tirx.get_default_tir_pipeline(target)
    mod = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(raw))
    mod = pipeline(mod)
    scratch: dict[str, tuple[int, ...]] = {}
    lowered: dict[Any, tirx.PrimFunc] = {}
    for var, func in mod.functions.items():
        lowered[var], scratch[var.name_hint] = _place_locals(var.name_hint, func)
    mod = finalise()(tvm.IRModule(lowered, attrs=mod.attrs))
    return codegen_build(mod, target), scratch


def keep_small_arrays_on_stack(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Mark local arrays of at most `STACK_BYTES` so that TVM leaves them on the stack.

    Without the mark, TVM asks its run time for every array of 1 KiB or more, and an accumulator
    tile never reaches the registers.
    """

    def mark(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
        size = _static_bytes(alloc.buffer)
        return alloc if size is None or size > STACK_BYTES else _on_stack(alloc)

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, mark)]))


def serial(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with serial loops in place of parallel ones, as the plain-C form holds it."""

    def loop(node: tirx.For) -> tirx.For:
        if node.kind != tirx.ForKind.PARALLEL:
            return node
        return tirx.For(
            node.loop_var,
            node.min,
            node.extent,
            tirx.ForKind.SERIAL,
            node.body,
            node.thread_binding,
            node.annotations,
            node.step,
        )

    return tvm_ffi.structural_map(func, [(tirx.For, loop)])


def _pointer(name: str, dtype: str) -> tirx.Var:
    return tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global"))


def _raw_pointers(name: str, func: tirx.PrimFunc, prefix: str) -> tirx.PrimFunc:
    """Take data pointers in place of tensor descriptors."""
    pointers: list[tirx.Var] = []
    declared: list[Any] = []
    for index, param in enumerate(func.params):
        if not tirx.buffer.is_buffer_var(param):
            raise CodegenError(
                f"kernel {name} takes the scalar {param}; the plain-C form needs static shapes"
            )
        pointers.append(_pointer(f"p{index}", str(param.dtype)))
        declared.append(tirx.DeclBuffer(param, data=pointers[-1]))
    raw = tirx.PrimFunc(pointers, tirx.SeqStmt([*declared, func.body]), attrs=func.attrs)
    # Without this mark LLVM would have to assume that an output may overlap an input.
    raw = raw.with_attr("tirx.noalias", True)
    return raw.with_attr("global_symbol", f"{prefix}_{name}").with_attr(
        "calling_conv", _RAW_POINTERS
    )


def _place_locals(name: str, func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, tuple[int, ...]]:
    """Leave small local arrays on the stack; make large ones parameters."""
    extra: list[tirx.Var] = []
    sizes: list[int] = []
    dynamic: list[str] = []  # an exception would not pass through structural_map unchanged

    def place(alloc: tirx.AllocBuffer) -> tirx.Stmt:
        size = _static_bytes(alloc.buffer)
        if size is None:
            dynamic.append(alloc.buffer.name)
            return alloc
        if size <= STACK_BYTES:
            return _on_stack(alloc)
        extra.append(_pointer(f"scratch{len(extra)}", str(alloc.buffer.dtype)))
        sizes.append(size)
        return tirx.DeclBuffer(alloc.buffer, data=extra[-1])

    body = tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, place)])
    if dynamic:
        raise CodegenError(
            f"kernel {name} allocates {dynamic[0]} of a size known only at run time; the plain-C "
            "form needs static shapes"
        )
    # A call into the TVM runtime asks for the device and may return an error code. No kernel may
    # make one; but without both, TVM would fail here with an internal error, before
    # `_refuse_runtime_calls` can say which call it is.
    body = tirx.SeqStmt([body, tirx.Return(tirx.IntImm("int32", 0))])
    for key, value in (("device_type", _CPU), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", value), body)
    result = tvm.ir.PrimType("int32")
    placed = tirx.PrimFunc([*func.params, *extra], body, ret_type=result, attrs=func.attrs)
    # A lone function would also become `__tvm_ffi_main`, on which two models would collide.
    placed = placed.without_attr("tirx.is_entry_func")
    return placed, tuple(sizes)


def _on_stack(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
    notes = {**dict(alloc.annotations), "disable_lower_builtin": tirx.IntImm("bool", 1)}
    return tirx.AllocBuffer(alloc.buffer, notes)


def _static_bytes(buffer: tirx.Var) -> int | None:
    dims = list(buffer.shape)
    if not all(isinstance(dim, tirx.IntImm) for dim in dims):
        return None
    kind = tvm.DataType(str(buffer.dtype))  # may be a vector, such as float32x16
    element = -(-int(kind.bits) * int(kind.lanes) // 8)
    return math.prod(int(dim) for dim in dims) * element


def _refuse_runtime_calls(path: Path, prefix: str) -> None:
    """Refuse symbols of the TVM runtime: a kernel asks for memory, threads, errors or functions.

    They need not be undefined: TVM defines weak pointers that its runtime fills in when it loads a
    library, and that would stay NULL here.
    """
    visible = [name for name in ElfFile(path).visible() if not name.startswith(f"{prefix}_")]
    left = [name for name in visible if name.lstrip("_").lower().startswith("tvm")]
    if left:
        raise CodegenError(
            f"the kernels still call {', '.join(left)}, but the plain-C form runs without the TVM "
            "runtime; remove assertions, packed calls and dynamic allocations from the PrimFuncs, "
            "or use the vm form"
        )
