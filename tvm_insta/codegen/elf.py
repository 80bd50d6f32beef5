"""Two questions to an ELF file: what does it leave undefined, and which libraries does it need?

Read here rather than asked of binutils, because a cross tool chain may bring none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tvm_insta.codegen.program import CodegenError

_SYMTAB, _DYNAMIC, _DYNSYM = 2, 6, 11
_DT_NEEDED = 1
_LOCAL, _WEAK = 0, 2  # bindings


@dataclass(frozen=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int
    entry: int


class ElfFile:
    """A parsed object or shared library, 32 or 64 bit, either byte order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        if self.data[:4] != b"\x7fELF" or len(self.data) < 52:
            raise CodegenError(f"{path} is no ELF file; the plain-C form supports ELF targets only")
        self.wide = self.data[4] == 2
        self.order = "<" if self.data[5] == 1 else ">"
        self.sections = self._read_sections()

    def undefined(self) -> list[str]:
        """Names of undefined symbols, sorted, weak ones left out.

        A weak symbol may stay undefined (the start files refer to such hooks).
        """
        return sorted(
            {name for name, binding, home in self._symbols() if home == 0 and binding != _WEAK}
        )

    def visible(self) -> list[str]:
        """Names of all global and weak symbols, defined or not, sorted."""
        return sorted({name for name, binding, _ in self._symbols() if binding != _LOCAL})

    def needed(self) -> list[str]:
        """DT_NEEDED entries of a shared library, in file order."""
        names = []
        layout = self.order + ("qQ" if self.wide else "iI")
        for section in self.sections:
            if section.kind != _DYNAMIC:
                continue
            strings = self.sections[section.link]
            for at in range(section.offset, section.offset + section.size, section.entry):
                tag, value = struct.unpack_from(layout, self.data, at)
                if tag == _DT_NEEDED:
                    names.append(self._string(strings, value))
        return names

    def _read_sections(self) -> list[_Section]:
        if self.wide:
            (table,) = struct.unpack_from(self.order + "Q", self.data, 40)
            entry, count = struct.unpack_from(self.order + "HH", self.data, 58)
        else:
            (table,) = struct.unpack_from(self.order + "I", self.data, 32)
            entry, count = struct.unpack_from(self.order + "HH", self.data, 46)
        layout = self.order + ("IIQQQQIIQQ" if self.wide else "IIIIIIIIII")
        sections = []
        for index in range(count):
            fields = struct.unpack_from(layout, self.data, table + index * entry)
            sections.append(_Section(fields[1], fields[4], fields[5], fields[6], fields[9]))
        return sections

    def _symbols(self) -> Iterator[tuple[str, int, int]]:
        """Name, binding and section (0: undefined) of every named symbol."""
        for section in self.sections:
            if section.kind not in (_SYMTAB, _DYNSYM):
                continue
            strings = self.sections[section.link]
            for index in range(1, section.size // section.entry):
                name, binding, home = self._symbol(section.offset + index * section.entry)
                if name != 0:
                    yield self._string(strings, name), binding, home

    def _symbol(self, at: int) -> tuple[int, int, int]:
        """Name offset, binding and section of the symbol at `at`."""
        if self.wide:
            name, info, _, home = struct.unpack_from(self.order + "IBBH", self.data, at)
        else:
            name, _, _, info, _, home = struct.unpack_from(self.order + "IIIBBH", self.data, at)
        return name, info >> 4, home

    def _string(self, strings: _Section, offset: int) -> str:
        start = strings.offset + offset
        return self.data[start : self.data.index(b"\0", start)].decode()
