"""Instructions to C++: the table of rules, and how operands are read and written.

A rule is a pattern for the whole opcode, modifiers included, with the number of operands. So a
modifier that no rule names is an error, and not an instruction that does something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tvm_insta.cuda_emulator.ptx.classes import cost_of
from tvm_insta.cuda_emulator.ptx.syntax import (
    BITS,
    Address,
    Immediate,
    Instruction,
    Kernel,
    Label,
    Negated,
    Operand,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)
from tvm_insta.errors import EmulatorError

_AXES = {
    "tid": "t.tid",
    "ntid": "t.block->dim",
    "ctaid": "t.block->id",
    "nctaid": "t.block->grid",
}


def c_type(kind: str) -> str:
    """The C++ type whose values a PTX type has."""
    if kind in ("pred", "f32", "f64"):
        return {"pred": "bool", "f32": "float", "f64": "double"}[kind]
    return f"{'int' if kind[0] == 's' else 'uint'}{BITS[kind]}_t"


@dataclass
class Emitter:
    """Writes the body of one kernel.

    Attributes:
        kernel: the kernel.
        shared: byte offset of each array in shared memory.
        local: byte offset of each array in local memory.
        globals: arrays of the module in global and constant memory.
        line: of the instruction that is being written.
    """

    kernel: Kernel
    shared: dict[str, int]
    local: dict[str, int]
    globals: frozenset[str]
    line: int = 0
    labels: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the labels."""
        found = (item.name for item in self.kernel.statements if isinstance(item, Label))
        self.labels = frozenset(found)

    def refuse(self, why: str) -> EmulatorError:
        """An error that names the kernel and the line."""
        return EmulatorError(f"kernel {self.kernel.name}, line {self.line} of the PTX: {why}")

    def value(self, operand: Operand, kind: str, *, wider: bool = False) -> str:
        """A C++ expression of type `c_type(kind)`.

        Args:
            operand: a register, number, special register or symbol.
            kind: the PTX type as which it is read.
            wider: the register may have more bits, as in loads, stores and conversions.
        """
        if isinstance(operand, Negated):
            return f"(!{self.value(operand.register, kind)})"
        if isinstance(operand, Register):
            return self._register(operand, kind, wider)
        if kind == "pred":
            if isinstance(operand, Immediate) and operand.kind == "int":
                return "true" if operand.value else "false"
            raise self.refuse("a predicate is given as what is none")
        if isinstance(operand, Immediate):
            return self._number(operand, kind)
        if isinstance(operand, Special):
            return f"({c_type(kind)})({self._special(operand)})"
        if isinstance(operand, Symbol):
            return f"({c_type(kind)})({self._symbol(operand)})"
        raise self.refuse("an operand is of a kind that this instruction does not take")

    def store(self, operand: Operand, kind: str, value: str, *, wider: bool = False) -> str:
        """A C++ statement that writes `value`, of type `c_type(kind)`, to a register."""
        if isinstance(operand, Sink):
            return f"(void)({value});"
        if not isinstance(operand, Register):
            raise self.refuse("a result does not go to a register")
        bits, have = BITS[kind], BITS[operand.kind]
        if have < bits or (have > bits and not wider) or (bits == 1) != (have == 1):
            raise self.refuse(f"a {kind} is written to the {operand.kind} register {operand.name}")
        if kind in ("f32", "f64"):
            return f"{operand.name} = bits_of({value});"
        sign = f"(int{have}_t)" if kind[0] == "s" and have > bits else ""
        return f"{operand.name} = {sign}({c_type(kind)})({value});"

    def address(self, operand: Operand) -> str:
        """A C++ expression, uint64_t, of what stands in brackets."""
        if not isinstance(operand, Address):
            raise self.refuse("an address was expected")
        base = operand.base
        if isinstance(base, Register):
            if BITS[base.kind] not in (32, 64):
                raise self.refuse(f"the address {base.name} is a {base.kind}")
            text = f"(uint64_t){base.name}"
        elif isinstance(base, Symbol):
            text = f"(uint64_t)({self._symbol(base)})"
        else:
            text = f"{base.value}ull"
        if not operand.offset:
            return text
        text = f"({text} + (int64_t){operand.offset})"
        narrow = isinstance(base, Register) and BITS[base.kind] == 32
        return f"(uint64_t)(uint32_t){text}" if narrow else text

    def items(self, operand: Operand, count: int) -> tuple[Operand, ...]:
        """The parts of a vector operand, or the operand itself where one is asked for."""
        parts = operand.items if isinstance(operand, Vector) else (operand,)
        if len(parts) != count:
            raise self.refuse(f"an operand has {len(parts)} parts in place of {count}")
        return parts

    def label(self, operand: Operand) -> str:
        """The C label of a branch's target."""
        if not isinstance(operand, Symbol) or operand.offset or operand.name not in self.labels:
            raise self.refuse("a branch goes to no label of its kernel")
        return c_label(operand.name)

    def _register(self, register: Register, kind: str, wider: bool) -> str:
        bits, have = BITS[kind], BITS[register.kind]
        if have < bits or (have > bits and not wider) or (bits == 1) != (have == 1):
            raise self.refuse(f"the {register.kind} register {register.name} is read as {kind}")
        if kind in ("f32", "f64"):
            return f"number_of(({'uint32_t' if kind == 'f32' else 'uint64_t'}){register.name})"
        return f"({c_type(kind)}){register.name}"

    def _number(self, number: Immediate, kind: str) -> str:
        if number.kind == "int":
            if kind in ("f32", "f64"):
                raise self.refuse("a float operand is given as an integer")
            return f"({c_type(kind)})({number.value & (2**64 - 1)}ull)"
        bits = f"0x{number.value:x}{'u' if number.kind == 'f32' else 'ull'}"
        if kind == number.kind:
            return f"number_of((uint{BITS[kind]}_t){bits})"
        if kind[0] == "f" or BITS[kind] != BITS[number.kind]:
            raise self.refuse(f"a {number.kind} number is read as {kind}")
        return f"({c_type(kind)}){bits}"

    def _special(self, special: Special) -> str:
        if special.name == "laneid":
            return "t.lane"
        if special.name == "WARP_SZ":
            return "32"
        name, _, axis = special.name.partition(".")
        return f"{_AXES[name]}.{axis}"

    def _symbol(self, symbol: Symbol) -> str:
        if symbol.name in self.shared:
            return f"{self.shared[symbol.name] + symbol.offset}ull"
        if symbol.name in self.local:
            return f"{self.local[symbol.name] + symbol.offset}ull"
        if symbol.name in self.globals:
            return f"(uint64_t)g_{symbol.name.replace('$', '_')} + {symbol.offset}"
        raise self.refuse(f"{symbol.name} is no array that is known here")


def c_label(name: str) -> str:
    """A PTX label as a C identifier."""
    return f"L_{name.replace('$', '_')}"


Handler = Callable[[Emitter, "re.Match[str]", tuple[Operand, ...]], str]


@dataclass(frozen=True)
class Rule:
    """How instructions of one pattern are written."""

    pattern: re.Pattern[str]
    counts: tuple[int, ...]
    write: Handler


_RULES: dict[str, list[Rule]] = {}


def rule(pattern: str, *counts: int) -> Callable[[Handler], Handler]:
    """Register a handler for opcodes that match `pattern` as a whole, with `counts` operands.

    The pattern begins with the instruction's name, or with several: `(add|sub)...`.
    """

    def register(handler: Handler) -> Handler:
        names = re.match(r"\(([\w|]+)\)|(\w+)", pattern)
        if names is None:
            raise ValueError(f"{pattern} begins with no name")
        made = Rule(re.compile(pattern), counts, handler)
        for name in (names[1] or names[2]).split("|"):
            _RULES.setdefault(name, []).append(made)
        return handler

    return register


def write(emitter: Emitter, instruction: Instruction) -> str:
    """The C++ statement of an instruction.

    Raises:
        EmulatorError: it, its modifiers or its operands are not known here.
    """
    emitter.line = instruction.line
    for each in _RULES.get(instruction.opcode.partition(".")[0], ()):
        found = each.pattern.fullmatch(instruction.opcode)
        if found is None:
            continue
        if len(instruction.operands) not in each.counts:
            raise emitter.refuse(f"{instruction.opcode} with {len(instruction.operands)} operands")
        text = each.write(emitter, found, instruction.operands)
        cost = cost_of(instruction.opcode)
        step = f"EMU_STEP({cost.unit.value}, {cost.count}) "
        if instruction.guard is None:
            return f"{{ {step}{text} }}"
        return f"{step}if ({emitter.value(instruction.guard, 'pred')}) {{ {text} }}"
    raise emitter.refuse(f"the instruction {instruction.opcode} is not known to the emulator")
