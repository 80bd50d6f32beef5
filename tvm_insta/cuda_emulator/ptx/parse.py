"""PTX text, as nvcc writes it, to `syntax.Module`. What is not known is refused, never skipped."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tvm_insta.cuda_emulator.ptx.operands import Scope, operands
from tvm_insta.cuda_emulator.ptx.syntax import (
    Array,
    Instruction,
    Kernel,
    Label,
    Module,
    Negated,
    Parameter,
    Register,
    size_of,
)
from tvm_insta.errors import EmulatorError

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_HEADER = re.compile(
    r"\.version\s+(?P<version>[\d.]+)\s+\.target\s+(?P<target>sm_\w+)[^\n]*"
    r"\s+\.address_size\s+64\s"
)
_ENTRY = re.compile(
    r"(?:\.(?:visible|weak)\s+)?\.entry\s+(?P<name>[\w$]+)\s*"
    r"\((?P<parameters>[^()]*)\)(?P<directives>[^{;]*)\{"
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<kind>\w+)\s+"
    r"(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?"
)
_MAXNTID = re.compile(r"\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?")
_DIRECTIVE = re.compile(r"\.(?:minnctapersm|maxnreg|explicitcluster)\b[^.]*")
_ARRAY = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(?P<space>shared|local|global|const)\s+"
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<kind>\w+)\s+(?P<name>[\w$]+)"
    r"(?P<brackets>\[(?P<count>\d*)\])?(?:\s*=\s*(?P<initial>.*))?",
    re.DOTALL,
)
_REGISTERS = re.compile(r"\.reg\s+\.(?P<kind>\w+)\s+(?P<names>.*)", re.DOTALL)
_RANGE = re.compile(r"(?P<stem>[%\w$]+)<(?P<count>\d+)>")
_GUARD = re.compile(r"@(?P<negated>!?)(?P<name>[%\w$]+)\s+")
# TVM's inline assembly has no space in front of a list of operands.
_INSTRUCTION = re.compile(
    r"(?P<opcode>[a-z]\w*(?:\.[\w:]+)*)(?:(?:\s+|(?=\{))(?P<operands>.*))?", re.DOTALL
)
_SILENT = (".pragma", ".loc", ".file")


def parse(text: str) -> Module:
    """Read a PTX file.

    Raises:
        EmulatorError: the text has a part that is not known here; the message names the line.
    """
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text).rstrip("\0\n ") + "\n"
    header = _HEADER.search(text)
    if header is None or text[: header.start()].strip():
        raise EmulatorError("the device code is no PTX for 64-bit addresses")
    at, arrays, kernels = header.end(), [], []
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        entry = _ENTRY.match(text, at)
        if entry is not None:
            end = _closing(text, entry.end())
            kernels.append(_kernel(entry, text, end))
            at = end + 1
            continue
        statement, end = _up_to_semicolon(text, at)
        if not statement.startswith(_SILENT):
            arrays.append(_array(statement, _line(text, at)))
        at = end
    return Module(header["version"], header["target"], tuple(arrays), tuple(kernels))


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _closing(text: str, at: int) -> int:
    """Where the brace that was opened before `at` is closed."""
    depth = 1
    for found in re.finditer(r"[{}]", text[at:]):
        depth += 1 if found[0] == "{" else -1
        if not depth:
            return at + found.start()
    raise EmulatorError("the PTX ends within a kernel")


def _up_to_semicolon(text: str, at: int) -> tuple[str, int]:
    end = text.find(";", at)
    if end < 0:
        raise EmulatorError(f"line {_line(text, at)} of the PTX has no end: {text[at : at + 60]!r}")
    return text[at:end].strip(), end + 1


def _array(statement: str, line: int) -> Array:
    found = _ARRAY.fullmatch(statement)
    if found is None:
        raise EmulatorError(f"line {line} of the PTX is not known here: {statement[:80]!r}")
    element = size_of(found["kind"])
    count = 1 if found["brackets"] is None else int(found["count"] or 0)
    initial = b""
    if found["initial"] is not None:
        words = re.findall(r"-?(?:0[xX][0-9a-fA-F]+|\d+)", found["initial"])
        if re.sub(r"[\s{},xXa-fA-F\d-]", "", found["initial"]) or len(words) > count:
            raise EmulatorError(f"line {line}: contents of {found['name']} are not plain integers")
        mask = (1 << 8 * element) - 1
        initial = b"".join((int(w, 0) & mask).to_bytes(element, "little") for w in words)
    align = int(found["align"] or element)
    return Array(found["name"], found["space"], align, element * count, initial)


def _parameters(text: str) -> tuple[Parameter, ...]:
    result, offset = [], 0
    for item in filter(None, (part.strip() for part in text.split(","))):
        found = _PARAMETER.fullmatch(item)
        if found is None:
            raise EmulatorError(f"a kernel's parameter is not known here: {item!r}")
        element = size_of(found["kind"])
        align = int(found["align"] or element)
        offset = -(-offset // align) * align
        size = element * int(found["count"] or 1)
        result.append(Parameter(found["name"], offset, size))
        offset += size
    return tuple(result)


def _kernel(entry: re.Match[str], text: str, end: int) -> Kernel:
    kernel = Kernel(entry["name"], _parameters(entry["parameters"]))
    directives = entry["directives"]
    if limit := _MAXNTID.search(directives):
        x, y, z = (int(item or 1) for item in limit.groups())
        kernel.max_threads = (x, y, z)
    if left := _DIRECTIVE.sub("", _MAXNTID.sub("", directives)).strip():
        raise EmulatorError(f"the directive {left!r} of kernel {kernel.name} is not known here")
    scopes = [Scope()]
    for piece, line in _pieces(text, entry.end(), end):
        if piece == "{":
            scopes.append(Scope(scopes[-1], f"s{line}_"))
        elif piece == "}":
            scopes.pop()
        elif piece.endswith(":"):
            if len(scopes) > 1:
                raise EmulatorError(f"line {line} of the PTX is a label in an inner scope")
            kernel.statements.append(Label(piece[:-1]))
        else:
            _statement(kernel, scopes[-1], piece, line)
    return kernel


def _pieces(text: str, at: int, end: int) -> Iterator[tuple[str, int]]:
    """Statements, labels (with their colon) and braces of scopes, each with its line."""
    line, start, begun = _line(text, at), at, 0
    while at < end:
        char = text[at]
        pending = text[start:at].strip()
        if char == "\n":
            line += 1
        elif not char.isspace() and not pending:
            begun = line
        if char == ";":
            if pending:
                yield pending, begun
            start = at + 1
        elif char in "{}" and not pending:
            yield char, line
            start = at + 1
        elif char == ":" and re.fullmatch(r"[\w$]+", pending) and text[at + 1] != ":":
            yield f"{pending}:", begun
            start = at + 1
        at += 1
    if text[start:end].strip():
        raise EmulatorError(f"line {begun} of the PTX has no end: {text[start:end].strip()[:60]!r}")


def _statement(kernel: Kernel, scope: Scope, text: str, line: int) -> None:
    if text.startswith(_SILENT):
        return
    if declared := _REGISTERS.fullmatch(text):
        for item in (name.strip() for name in declared["names"].split(",")):
            ranged = _RANGE.fullmatch(item)
            names = [item]
            if ranged is not None:
                names = [f"{ranged['stem']}{i}" for i in range(int(ranged["count"]))]
            kernel.registers += [scope.declare(name, declared["kind"], line) for name in names]
        return
    if text.startswith("."):
        kernel.arrays.append(_array(text, line))
        return
    guard: Register | Negated | None = None
    if found := _GUARD.match(text):
        register = scope.register(found["name"])
        if register is None or register.kind != "pred":
            raise EmulatorError(f"line {line} of the PTX is guarded by what is no predicate")
        guard = Negated(register) if found["negated"] else register
        text = text[found.end() :]
    parts = _INSTRUCTION.fullmatch(text)
    if parts is None:
        raise EmulatorError(f"line {line} of the PTX is not known here: {text[:80]!r}")
    given = operands(parts["operands"] or "", scope, line)
    kernel.statements.append(Instruction(parts["opcode"], given, line, guard))
