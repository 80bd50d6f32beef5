"""Inline assembly in CUDA C to C++: its PTX goes through the rules of the first tier.

So a statement that those do not know is refused here, too.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from tvm_insta.cuda_emulator.cuda_c.text import closing, split_top
from tvm_insta.cuda_emulator.ptx.emit import Emitter, write
from tvm_insta.cuda_emulator.ptx.parse import parse
from tvm_insta.cuda_emulator.ptx.syntax import Instruction, Kernel
from tvm_insta.errors import EmulatorError

_STATEMENT = re.compile(r"\b(?:__asm__|asm)\s*(?:__volatile__|volatile)?\s*\(")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OPERAND = re.compile(r'\s*"(?P<output>[=+]?)(?P<kind>[rlhfdn])"\s*\(')
_KINDS = {"r": "b32", "l": "b64", "h": "b16", "f": "f32", "d": "f64"}
_NUMBERS = {"f": ("uint32_t", "float"), "d": ("uint64_t", "double")}
_MODULE = """.version 8.0
.target sm_90
.address_size 64
.visible .entry asm_statement()
{{
{registers}
{text}
}}
"""


@dataclass(frozen=True)
class _Operand:
    """One operand of a statement: `kind` is its constraint, `output` "", "=" or "+"."""

    kind: str
    output: str
    expression: str


def rewrite(source: str, first_line: int) -> str:
    """The source with its asm statements as C++; what is behind them stays on its line.

    Args:
        source: a kernel, or a part of one.
        first_line: the line it begins on; meetings of warps are known by lines.

    Raises:
        EmulatorError: a statement, or an instruction in it, is not known here.
    """
    out, at = [], 0
    while (found := _STATEMENT.search(source, at)) is not None:
        end = closing(source, found.end())
        line = first_line + source.count("\n", 0, found.start())
        out += [source[at : found.start()], _statement(source[found.end() : end], line)]
        out.append("\n" * source.count("\n", found.start(), end))
        at = end + 1
        behind = re.match(r"\s*;", source[at:])
        at += behind.end() if behind else 0
    return "".join([*out, source[at:]])


def _statement(inside: str, line: int) -> str:
    parts = split_top(inside, ":")
    outputs = _operands(parts[1], line) if len(parts) > 1 else []
    inputs = _operands(parts[2], line) if len(parts) > 2 else []
    if any(not each.output for each in outputs) or any(each.output for each in inputs):
        raise _refused(line, "operands are in the wrong place")
    every = [*outputs, *inputs]
    text = "".join(_STRING.findall(parts[0])).replace("\\n", "\n").replace("\\t", " ")
    try:
        kernel = _parsed(text, every)
        emitter = Emitter(kernel, {}, {}, frozenset())
        instructions = [item for item in kernel.statements if isinstance(item, Instruction)]
        if kernel.arrays or len(instructions) != len(kernel.statements):
            raise EmulatorError("it declares an array, or has a label")
        code = [write(emitter, dataclasses.replace(item, line=line)) for item in instructions]
    except EmulatorError as error:
        raise _refused(line, str(error)) from error
    registers = [register.name for register in kernel.registers]
    held = [each for each in every if each.kind != "n"]
    pairs = list(zip(registers, held, strict=False))  # the rest are the statement's own
    body = [_declared(name, each) for name, each in pairs]
    body += [f"uint64_t {name} = 0;" for name in registers[len(held) :]]
    body += [*code, "emu::current = &t;"]
    body += [_result(name, each) for name, each in pairs if each.output]
    return f"{{ using namespace emu; Thread &t = *emu::current; (void)t; {' '.join(body)} }}"


def _parsed(text: str, every: list[_Operand]) -> Kernel:
    """The statement as a kernel whose first registers are the operands."""
    declared = []
    for index in reversed(range(len(every))):
        number = every[index].expression if every[index].kind == "n" else f"%a{index}"
        text = re.sub(rf"%{index}(?!\d)", number, text)
        if every[index].kind != "n":
            declared.append(f".reg .{_KINDS[every[index].kind]} %a{index};")
    text = re.sub(r"(?<=\w)\{", " {", text.strip())  # the opcode's end, between two strings
    registers = "\n".join(reversed(declared))
    (kernel,) = parse(_MODULE.format(registers=registers, text=text)).kernels
    return kernel


def _operands(text: str, line: int) -> list[_Operand]:
    result, at = [], 0
    while text[at:].strip():
        found = _OPERAND.match(text, at)
        if found is None:
            raise _refused(line, f"the operand {text[at : at + 40].strip()!r} is not known")
        end = closing(text, found.end())
        expression = text[found.end() : end]
        if found["kind"] == "n" and not re.fullmatch(r"\s*\d+\s*", expression):
            raise _refused(line, f"{expression.strip()!r} is no number")
        result.append(_Operand(found["kind"], found["output"], expression.strip()))
        comma = re.match(r"\s*,?", text[end + 1 :])
        at = end + 1 + (comma.end() if comma else 0)
    return result


def _declared(name: str, operand: _Operand) -> str:
    bits = {"r": 32, "l": 64, "h": 16, "f": 32, "d": 64}[operand.kind]
    if operand.output == "=":
        return f"uint{bits}_t {name} = (uint{bits}_t)0xa5a5a5a5a5a5a5a5ull;"
    if operand.kind in _NUMBERS:
        return (
            f"uint{bits}_t {name} = bits_of(({_NUMBERS[operand.kind][1]})({operand.expression}));"
        )
    return f"uint{bits}_t {name} = (uint{bits}_t)({operand.expression});"


def _result(name: str, operand: _Operand) -> str:
    value = f"number_of({name})" if operand.kind in _NUMBERS else name
    return f"{operand.expression} = {value};"


def _refused(line: int, why: str) -> EmulatorError:
    return EmulatorError(f"the assembly in line {line} of the CUDA C is not known here: {why}")
