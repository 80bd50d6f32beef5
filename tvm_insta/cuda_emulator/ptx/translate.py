"""A PTX module to a C++ file whose functions run one thread of a kernel each.

The file includes `device.h` and ends in a table of its kernels, which the driver stand-in reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tvm_insta.cuda_emulator.ptx import (
    floats,  # noqa: F401  each of these registers its rules
    integers,  # noqa: F401
    memory,  # noqa: F401
    warps,  # noqa: F401
)
from tvm_insta.cuda_emulator.ptx.emit import Emitter, c_label, write
from tvm_insta.cuda_emulator.ptx.parse import parse
from tvm_insta.cuda_emulator.ptx.syntax import (
    Address,
    Array,
    Kernel,
    Label,
    Module,
    Operand,
    Register,
    Symbol,
    Vector,
)
from tvm_insta.cuda_emulator.table import table
from tvm_insta.errors import EmulatorError

_DYNAMIC_ALIGN = 128
_POISON = 0xA5A5A5A5A5A5A5A5  # what a register holds that nobody wrote


@dataclass(frozen=True)
class _Layout:
    """Byte offsets of arrays, and where shared memory of the launch's size begins."""

    shared: dict[str, int]
    static_bytes: int
    dynamic_offset: int
    local: dict[str, int]
    local_bytes: int


def translate(text: str) -> str:
    """The C++ file of a PTX module.

    Raises:
        EmulatorError: the PTX has a part that is not known here.
    """
    module = parse(text)
    fixed = [array for array in module.arrays if array.space in ("global", "const")]
    out = ['#include "device.h"', "using namespace emu;", "namespace {"]
    out += [_global(array) for array in fixed]
    out += [_body(kernel, module) for kernel in module.kernels]
    entries = [_entry(kernel, _layout(kernel, module)) for kernel in module.kernels]
    tables = [f"{{g_{_c(a.name)}, {a.size}, {int(a.space == 'const')}}}" for a in fixed]
    return "\n".join([*out, "}", table(entries, tables, _target(module))])


def _target(module: Module) -> int:
    digits = module.target.removeprefix("sm_").rstrip("af")
    if not digits.isdigit():
        raise EmulatorError(f"the PTX is for {module.target}, which is no architecture known here")
    return int(digits)


def _c(name: str) -> str:
    return name.replace("$", "_")


def _global(array: Array) -> str:
    if not array.size:
        raise EmulatorError(f"{array.name} of the PTX has no size")
    content = ", ".join(map(str, array.initial)) or "0"
    declared = f"unsigned char g_{_c(array.name)}[{array.size}]"
    return f"alignas({max(array.align, 16)}) {declared} = {{{content}}};"


def _used(kernel: Kernel) -> set[str]:
    """Names of arrays that the kernel's instructions mention."""

    def names(operand: Operand) -> list[str]:
        if isinstance(operand, Symbol):
            return [operand.name]
        if isinstance(operand, Address) and isinstance(operand.base, Symbol):
            return [operand.base.name]
        if isinstance(operand, Vector):
            return [name for item in operand.items for name in names(item)]
        return []

    statements = (item for item in kernel.statements if not isinstance(item, Label))
    return {name for item in statements for operand in item.operands for name in names(operand)}


def _layout(kernel: Kernel, module: Module) -> _Layout:
    used = _used(kernel)
    arrays = [*kernel.arrays, *(array for array in module.arrays if array.name in used)]
    shared, static = _place(a for a in arrays if a.space == "shared" and a.size)
    local, local_bytes = _place(a for a in arrays if a.space == "local")
    dynamic = -(-static // _DYNAMIC_ALIGN) * _DYNAMIC_ALIGN
    shared |= {a.name: dynamic for a in arrays if a.space == "shared" and not a.size}
    return _Layout(shared, static, dynamic, local, local_bytes)


def _place(arrays: Iterable[Array]) -> tuple[dict[str, int], int]:
    """Arrays behind each other: byte offset of each, and bytes in all.

    An array aligned to 16 bytes has whole groups of 16: nvcc makes one load of several words where
    the alignment says that their group exists, though the array ends in it.
    """
    offsets, end = {}, 0
    for array in arrays:
        end = -(-end // array.align) * array.align
        offsets[array.name] = end
        group = min(array.align, 16)
        end += -(-array.size // group) * group
    return offsets, end


def _body(kernel: Kernel, module: Module) -> str:
    layout = _layout(kernel, module)
    fixed = frozenset(a.name for a in module.arrays if a.space in ("global", "const"))
    emitter = Emitter(kernel, layout.shared, layout.local, fixed)
    out = [f"void run_{_c(kernel.name)}(Thread &t, const char *parameters) {{"]
    out += ["  (void)parameters;"]
    if layout.local_bytes:
        size = layout.local_bytes
        out += [f"  alignas(16) char local[{size}]; local_memory(t, local, {size});"]
    out += [f"  {_declaration(register)}" for register in kernel.registers]
    for item in kernel.statements:
        text = f"{c_label(item.name)}:;" if isinstance(item, Label) else write(emitter, item)
        out.append(f"  {text}")
    return "\n".join([*out, "}"])


def _declaration(register: Register) -> str:
    if register.kind == "pred":
        return f"bool {register.name} = false;"
    bits = int(register.kind.lstrip("busf"))
    if bits > 64:
        return f"unsigned __int128 {register.name} = {_POISON}ull;"
    return f"uint{bits}_t {register.name} = (uint{bits}_t){_POISON}ull;"


def _entry(kernel: Kernel, layout: _Layout) -> str:
    sizes = ", ".join(f"{{{p.offset}, {p.size}}}" for p in kernel.parameters)
    count = len(kernel.parameters)
    parameters = f"(const Parameter[]){{{sizes}}}" if count else "nullptr"
    x, y, z = kernel.max_threads or (0, 0, 0)
    return (
        f'{{"{kernel.name}", run_{_c(kernel.name)}, {parameters}, {count}, {layout.static_bytes}, '
        f'{layout.dynamic_offset}, {layout.local_bytes}, {x * y * z}, "PTX"}}'
    )
