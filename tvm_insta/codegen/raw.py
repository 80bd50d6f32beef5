"""From scheduled PrimFuncs to C functions on raw pointers, in one object file.

A kernel is one function or several, its parts (see `parts.py`):
`int32_t <name>_<part>(arguments..., outputs..., shared..., own..., [int32_t begin, int32_t end])`
returns 0; every pointer is to memory that is aligned to 64 bytes, and nothing that is written
overlaps another parameter. Nothing of TVM is needed at run time:

- the caller shares out the iterations of a parallel part between threads, or runs them all;
- small local arrays live on the stack, large ones become trailing parameters: `shared` ones the
  caller takes from its arena, `own` ones from memory that belongs to the thread; so no kernel
  allocates memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.tirx.build import codegen_build

from tvm_insta.codegen import wasm
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.parts import Part, cut, needed
from tvm_insta.codegen.program import CodegenError

STACK_BYTES = 8192
"""Local arrays up to this size stay on the stack, where LLVM can keep them in registers.

The largest accumulator tile that fits a register file is 2 KiB (32 registers of 64 bytes).
"""

_RAW_POINTERS = 3  # TVM's calling convention without argument packing
_CPU = 1  # kDLCPU


@dataclass(frozen=True)
class RawKernel:
    """The functions of one kernel, and what they take beside its arguments and outputs.

    Attributes:
        parts: its functions, in order; all take the same pointers.
        shared: bytes of each scratch array that all threads and parts see.
        own: bytes of each scratch array that every thread needs for itself.
    """

    parts: tuple[Part, ...]
    shared: tuple[int, ...] = ()
    own: tuple[int, ...] = ()


@dataclass(frozen=True)
class RawKernels:
    """The object file and its kernels, by symbol without prefix."""

    object_file: Path
    kernels: dict[str, RawKernel]


def lower(
    functions: Mapping[str, tirx.PrimFunc], target: tvm.target.Target, prefix: str, out: Path
) -> RawKernels:
    """Compile `functions` (symbol -> scheduled PrimFunc with static shapes) into the object `out`.

    The C name of kernel `k` is `<prefix>_k`.

    Raises:
        CodegenError: for a scalar parameter, a dynamic local array, or a symbol of the TVM runtime
            that is left over.
    """
    compiled, kernels = _compile(functions, target, prefix)
    compiled.write_to_file(str(out))
    _refuse_runtime_calls(out, prefix)
    return RawKernels(out, kernels)


def assembly(functions: dict[str, tirx.PrimFunc], target: tvm.target.Target) -> str:
    """The machine code of `lower`, as text."""
    compiled, _ = _compile(functions, target, "model")
    return str(compiled.inspect_source("asm"))


def _compile(
    functions: Mapping[str, tirx.PrimFunc], target: tvm.target.Target, prefix: str
) -> tuple[Any, dict[str, RawKernel]]:
    raw = {name: _raw_pointers(name, func, prefix) for name, func in functions.items()}
    pipeline, finalise, _ = tvm.tirx.get_default_tir_pipeline(target)
    mod = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(raw))
    mod = pipeline(mod)
    kernels: dict[str, RawKernel] = {}
    lowered: dict[str, tirx.PrimFunc] = {}
    for var, func in mod.functions.items():
        made, kernels[var.name_hint] = _split(var.name_hint, func, prefix)
        lowered.update(made)
    mod = finalise()(tvm.IRModule(lowered, attrs=mod.attrs))
    return codegen_build(mod, target), kernels


def keep_small_arrays_on_stack(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Mark local arrays of at most `STACK_BYTES` so that TVM leaves them on the stack.

    Without the mark, TVM asks its run time for every array of 1 KiB or more, and an accumulator
    tile never reaches the registers.
    """

    def mark(alloc: tirx.AllocBuffer) -> tirx.AllocBuffer:
        size = _static_bytes(alloc.buffer)
        return alloc if size is None or size > STACK_BYTES else _on_stack(alloc)

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.AllocBuffer, mark)]))


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


class _Locals:
    """Finds a place for the arrays of one kernel: the stack, or further pointers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shared: dict[tirx.Var, int] = {}
        self.own: dict[tirx.Var, int] = {}

    def at_top(self, alloc: tirx.AllocBuffer, *, private: bool) -> tirx.Stmt:
        """An array of the kernel's own level; `private` if a single serial part needs it."""
        if private and self._size(alloc) <= STACK_BYTES:
            return _on_stack(alloc)
        return self._become(self.shared, alloc)

    def inside(self, step: tirx.Stmt, group: dict[tirx.Var, int]) -> tirx.Stmt:
        """The statement with its own arrays on the stack, or in `group`."""
        dynamic: list[CodegenError] = []  # would not pass through structural_map unchanged

        def place(alloc: tirx.AllocBuffer) -> tirx.Stmt:
            try:
                small = self._size(alloc) <= STACK_BYTES
            except CodegenError as error:
                dynamic.append(error)
                return alloc
            return _on_stack(alloc) if small else self._become(group, alloc)

        result = tvm_ffi.structural_map(step, [(tirx.AllocBuffer, place)])
        if dynamic:
            raise dynamic[0]
        return result

    def _size(self, alloc: tirx.AllocBuffer) -> int:
        size = _static_bytes(alloc.buffer)
        if size is None:
            raise CodegenError(
                f"kernel {self.name} allocates {alloc.buffer.name} of a size known only at run "
                "time; the plain-C form needs static shapes"
            )
        return size

    def _become(self, group: dict[tirx.Var, int], alloc: tirx.AllocBuffer) -> tirx.DeclBuffer:
        number = len(self.shared) + len(self.own)
        pointer = _pointer(f"scratch{number}", str(alloc.buffer.dtype))
        group[pointer] = self._size(alloc)
        return tirx.DeclBuffer(alloc.buffer, data=pointer)


def _split(
    name: str, func: tirx.PrimFunc, prefix: str
) -> tuple[dict[str, tirx.PrimFunc], RawKernel]:
    """The functions of a lowered kernel by symbol; arrays too large for the stack are pointers."""
    prelude, cuts = cut(func.body)
    needs = [needed(prelude, each.statements) for each in cuts]
    locals_ = _Locals(name)
    for number, statement in enumerate(prelude):
        if isinstance(statement, tirx.AllocBuffer):
            homes = [each for each, need in zip(cuts, needs, strict=True) if number in need]
            private = len(homes) == 1 and not homes[0].bounds
            if homes:
                prelude[number] = locals_.at_top(statement, private=private)
    bodies = [
        [
            *(prelude[number] for number in need),
            *(
                locals_.inside(step, locals_.own if each.bounds else locals_.shared)
                for step in each.statements
            ),
        ]
        for each, need in zip(cuts, needs, strict=True)
    ]
    pointers = [*func.params, *locals_.shared, *locals_.own]
    functions: dict[str, tirx.PrimFunc] = {}
    parts: list[Part] = []
    for number, (each, body) in enumerate(zip(cuts, bodies, strict=True)):
        symbol = name if len(cuts) == 1 else f"{name}_part{number}"
        parts.append(Part(symbol, each.extent))
        whole = _returning_zero(body)
        result = tvm.ir.PrimType("int32")
        made = tirx.PrimFunc([*pointers, *each.bounds], whole, ret_type=result, attrs=func.attrs)
        # A lone function would also become `__tvm_ffi_main`, on which two models would collide.
        made = made.without_attr("tirx.is_entry_func")
        functions[symbol] = made.with_attr("global_symbol", f"{prefix}_{symbol}")
    shared, own = tuple(locals_.shared.values()), tuple(locals_.own.values())
    return functions, RawKernel(tuple(parts), shared, own)


def _returning_zero(steps: list[tirx.Stmt]) -> tirx.Stmt:
    # A call into the TVM runtime asks for the device and may return an error code. No kernel may
    # make one; but without both, TVM would fail here with an internal error, before
    # `_refuse_runtime_calls` can say which call it is.
    body = tirx.SeqStmt([*steps, tirx.Return(tirx.IntImm("int32", 0))])
    for key, value in (("device_type", _CPU), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", value), body)
    return body


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
    is_wasm = path.read_bytes()[: len(wasm.MAGIC)] == wasm.MAGIC
    every = wasm.visible(path) if is_wasm else ElfFile(path).visible()
    visible = [name for name in every if not name.startswith(f"{prefix}_")]
    left = [name for name in visible if name.lstrip("_").lower().startswith("tvm")]
    if left:
        raise CodegenError(
            f"the kernels still call {', '.join(left)}, but the plain-C form runs without the TVM "
            "runtime; remove assertions, packed calls and dynamic allocations from the PrimFuncs, "
            "or use the vm form"
        )
