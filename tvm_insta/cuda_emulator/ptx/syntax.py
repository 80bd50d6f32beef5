"""The parts of a PTX module, after parsing: kernels, registers, arrays, instructions, operands.

Names and numbers only, no behaviour. PTX is NVIDIA's virtual instruction set; the grammar followed
here is that of the "PTX ISA" document, as far as nvcc uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm_insta.errors import EmulatorError

BITS = (
    {"pred": 1}
    | {
        f"{kind}{bits}": bits
        for kind, sizes in {
            "b": (8, 16, 32, 64),
            "u": (8, 16, 32, 64),
            "s": (8, 16, 32, 64),
        }.items()
        for bits in sizes
    }
    | {"f16": 16, "f32": 32, "f64": 64, "b128": 128}
)
"""Bits of each fundamental type."""


def size_of(kind: str) -> int:
    """Bytes of a type in memory.

    Raises:
        EmulatorError: PTX has no such type, or memory cannot hold it.
    """
    if BITS.get(kind, 0) < 8:
        raise EmulatorError(f"PTX memory holds no type {kind!r}")
    return BITS[kind] // 8


@dataclass(frozen=True)
class Register:
    """A virtual register; `name` is unique in its kernel and a C identifier."""

    name: str
    kind: str


@dataclass(frozen=True)
class Negated:
    """`!%p1`: a predicate, inverted."""

    register: Register


@dataclass(frozen=True)
class Immediate:
    """A number; `kind` is "int", or "f32" and "f64" for the bit patterns 0f... and 0d...."""

    value: int
    kind: str = "int"


@dataclass(frozen=True)
class Special:
    """A special register, such as `%tid.x`, without its percent sign."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """The address of an array or a parameter, plus `offset` bytes."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """`[base+offset]`."""

    base: Register | Symbol | Immediate
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """`{a, b, ...}`."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """`a|b`: two destinations of one instruction."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Sink:
    """`_`: a destination that nobody reads."""


Operand = Register | Negated | Immediate | Special | Symbol | Address | Vector | Pair | Sink


@dataclass(frozen=True)
class Instruction:
    """One instruction: `opcode` with all modifiers, its operands, and the line it stands on."""

    opcode: str
    operands: tuple[Operand, ...]
    line: int
    guard: Register | Negated | None = None


@dataclass(frozen=True)
class Label:
    """A place to jump to."""

    name: str


@dataclass(frozen=True)
class Array:
    """A variable in memory.

    Attributes:
        name: as PTX has it.
        space: "shared", "local", "global" or "const".
        align: bytes.
        size: bytes; 0 for shared memory whose size the launch gives.
        initial: contents, for "global" and "const" only; shorter ones are filled with zeros.
    """

    name: str
    space: str
    align: int
    size: int
    initial: bytes = b""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel, at byte `offset` of `size` bytes."""

    name: str
    offset: int
    size: int


@dataclass
class Kernel:
    """One `.entry`.

    Attributes:
        name: its symbol.
        parameters: in order.
        statements: instructions and labels in order.
        registers: every register of every scope.
        arrays: those declared in its body.
        max_threads: what `.maxntid` allows along x, y and z; None without it.
    """

    name: str
    parameters: tuple[Parameter, ...]
    statements: list[Instruction | Label] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    max_threads: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Module:
    """A PTX file: `target` is like "sm_90"."""

    version: str
    target: str
    arrays: tuple[Array, ...]
    kernels: tuple[Kernel, ...]
