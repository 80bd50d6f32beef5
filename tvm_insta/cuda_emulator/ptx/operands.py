"""Operands of PTX instructions, with names resolved in the scope that they stand in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tvm_insta.cuda_emulator.ptx.syntax import (
    BITS,
    Address,
    Immediate,
    Negated,
    Operand,
    Pair,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)
from tvm_insta.errors import EmulatorError

SPECIALS = frozenset(
    {f"{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
    | {"laneid", "WARP_SZ"}
)
"""Special registers that are known. `%warpid` is not: PTX says that it may change at any time."""

_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?")
_FLOAT = re.compile(r"0[fF](?P<f32>[0-9a-fA-F]{8})|0[dD](?P<f64>[0-9a-fA-F]{16})")
_SUM = re.compile(r"(?P<base>[%\w$]+)\s*(?:(?P<sign>[+-])\s*(?P<offset>-?(?:0[xX])?[0-9a-fA-F]+))?")
_SPLIT = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|[^,{}\[\]]+|.")


@dataclass
class Scope:
    """Names of registers between two braces; an inner one may hide an outer's."""

    parent: Scope | None = None
    prefix: str = ""
    registers: dict[str, Register] = field(default_factory=dict)

    def declare(self, name: str, kind: str, line: int) -> Register:
        """Make a register.

        Raises:
            EmulatorError: its type is none of a register, or the name is taken.
        """
        if kind not in BITS or name in self.registers:
            raise EmulatorError(f"line {line} of the PTX declares {name} as {kind}, not known here")
        made = Register(self.prefix + name.replace("%", "r_").replace("$", "_"), kind)
        self.registers[name] = made
        return made

    def register(self, name: str) -> Register | None:
        """The register of that name in the innermost scope that has it."""
        if name in self.registers:
            return self.registers[name]
        return self.parent.register(name) if self.parent is not None else None


def operands(text: str, scope: Scope, line: int) -> tuple[Operand, ...]:
    """Read a list of operands.

    Raises:
        EmulatorError: one of them is not known here; the message names the line.
    """
    pieces = [piece.strip() for piece in _SPLIT.findall(text)]
    commas = pieces[1::2]
    if text.strip() and (len(pieces) % 2 == 0 or any(comma != "," for comma in commas)):
        pieces = [piece for piece in pieces if piece]  # blanks between a brace and a comma
        commas = pieces[1::2]
        if len(pieces) % 2 == 0 or any(comma != "," for comma in commas):
            raise EmulatorError(f"line {line} of the PTX has operands not known here: {text!r}")
    return tuple(_operand(piece, scope, line) for piece in pieces[::2])


def _operand(text: str, scope: Scope, line: int) -> Operand:
    if text.startswith("{"):
        return Vector(operands(text[1:-1], scope, line))
    if text.startswith("["):
        return _address(text[1:-1].strip(), scope, line)
    if "|" in text:
        first, _, second = text.partition("|")
        return Pair(_operand(first.strip(), scope, line), _operand(second.strip(), scope, line))
    return Sink() if text == "_" else _scalar(text, scope, line)


def _scalar(text: str, scope: Scope, line: int) -> Operand:
    negated = text.startswith("!")
    register = scope.register(text[1:].strip() if negated else text)
    if register is not None:
        return Negated(register) if negated else register
    if text.lstrip("%") in SPECIALS:
        return Special(text.lstrip("%"))
    if number := _FLOAT.fullmatch(text):
        kind = "f32" if number["f32"] else "f64"
        return Immediate(int(number[kind], 16), kind)
    if _INTEGER.fullmatch(text):
        return Immediate(int(text.rstrip("U"), 0))
    found = _SUM.fullmatch(text)
    if found is None or text.startswith("%"):
        raise EmulatorError(f"line {line} of the PTX has an operand not known here: {text!r}")
    return Symbol(found["base"], _offset(found))


def _offset(found: re.Match[str]) -> int:
    if found["offset"] is None:
        return 0
    value = int(found["offset"], 0)
    return -value if found["sign"] == "-" else value


def _address(text: str, scope: Scope, line: int) -> Address:
    found = _SUM.fullmatch(text)
    if found is None:
        raise EmulatorError(f"line {line} of the PTX has an address not known here: [{text}]")
    register = scope.register(found["base"])
    if register is not None:
        return Address(register, _offset(found))
    if _INTEGER.fullmatch(found["base"]):
        return Address(Immediate(int(found["base"], 0)), _offset(found))
    if found["base"].startswith("%"):
        raise EmulatorError(f"line {line} of the PTX has an address not known here: [{text}]")
    return Address(Symbol(found["base"]), _offset(found))
