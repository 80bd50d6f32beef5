"""The symbols of a WebAssembly object: what it defines for other objects, and what it lacks.

A relocatable object lists its symbols in the custom section "linking"; the names of those that it
lacks stand among its imports, in the same order for each kind.
"""

from __future__ import annotations

from pathlib import Path

from tvm_insta.codegen.program import CodegenError

MAGIC = b"\0asm"

_CUSTOM, _IMPORT, _SYMBOLS = 0, 2, 8
_LOCAL, _UNDEFINED, _EXPLICIT_NAME = 0x02, 0x10, 0x40
_FUNCTION, _DATA, _SECTION = 0, 1, 3
# Kind of an import -> kind of a symbol: functions, globals, tags, tables.
_KINDS = {0: 0, 3: 2, 4: 4, 1: 5}


class _Reader:
    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """An unsigned LEB128."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text(self) -> str:
        size = self.number()
        self.at += size
        return self.data[self.at - size : self.at].decode()


def visible(path: Path) -> list[str]:
    """Names of the symbols of an object that are not local, defined or not.

    Raises:
        CodegenError: the file is no WebAssembly object.
    """
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise CodegenError(f"{path} is no WebAssembly object")
    reader, imported, found = _Reader(data, 8), {}, []
    try:
        while reader.at < len(data):
            section, size = reader.byte(), reader.number()
            end = reader.at + size
            if end > len(data):
                raise IndexError(end)
            if section == _IMPORT:
                imported = _imports(reader)
            elif section == _CUSTOM and reader.text() == "linking":
                found = _symbols(reader, end, imported)
            reader.at = end
    except (IndexError, UnicodeDecodeError) as error:
        raise CodegenError(f"{path} ends within a section") from error
    return found


def _imports(reader: _Reader) -> dict[int, list[str]]:
    """Names of the imports by the kind of their symbols."""
    names: dict[int, list[str]] = {kind: [] for kind in _KINDS.values()}
    for _ in range(reader.number()):
        reader.text()  # the module, "env"
        name, kind = reader.text(), reader.byte()
        if kind in _KINDS:
            names[_KINDS[kind]].append(name)
        if kind == 1:  # a table: type of its elements, limits
            reader.byte()
        if kind in (1, 2):
            bounded = reader.byte() & 1
            reader.number()
            if bounded:
                reader.number()
        elif kind == 3:
            reader.at += 2  # type, whether it can change
        elif kind == 4:
            reader.byte()
            reader.number()
        elif kind == 0:
            reader.number()
    return names


def _symbols(reader: _Reader, end: int, imported: dict[int, list[str]]) -> list[str]:
    """The names of one "linking" section up to `end`."""
    reader.number()  # version
    found = []
    while reader.at < end:
        part, size = reader.byte(), reader.number()
        behind = reader.at + size
        if part == _SYMBOLS:
            found += [_symbol(reader, imported) for _ in range(reader.number())]
        reader.at = behind
    return [name for name in found if name]


def _symbol(reader: _Reader, imported: dict[int, list[str]]) -> str:
    """The name of one symbol, "" of a local one."""
    kind, flags = reader.byte(), reader.number()
    if kind == _SECTION:
        reader.number()
        return ""
    if kind == _DATA:
        name = reader.text()
        if not flags & _UNDEFINED:
            for _ in range(3):  # segment, offset, size
                reader.number()
    else:
        index = reader.number()
        named = not flags & _UNDEFINED or flags & _EXPLICIT_NAME
        name = reader.text() if named else imported[kind][index]
    return "" if flags & _LOCAL else name
