"""CUDA C as TVM writes it to a C++ file with the same table of kernels as a translated PTX module.

The text stays as it is but for what C++ has no word for: parameters and shared arrays become
objects that check each access, casts of pointers become calls, asm statements become C++. What is
left over does not compile, which is a refusal, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm_insta.cuda_emulator.cuda_c.asm import rewrite
from tvm_insta.cuda_emulator.cuda_c.text import closing, split_top
from tvm_insta.cuda_emulator.table import table
from tvm_insta.errors import EmulatorError

_MARK = "// CUDA C for the emulated device, sm_"
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\((?P<threads>\d+)[^)]*\)\s*)?'
    r"(?P<name>\w+)\s*\("
)
_INCLUDE = re.compile(r"^\s*#\s*include\s*<(?!cstdint|type_traits)[^>]*>[^\n]*", re.MULTILINE)
_POINTER = re.compile(
    r"(?:const\s+)?(?P<type>\w+)\s*(?:const\s*)?\*\s*(?:const\s+)?(?:__restrict__\s*)?(?P<name>\w+)"
)
_VALUE = re.compile(r"(?:const\s+)?(?P<type>\w+)\s+(?P<name>\w+)")
_SHARED = re.compile(
    r"(?P<extern>extern\s+)?__shared__\s+(?:(?:alignas|__align__)\((?P<align>\d+)\)\s*)?"
    r"(?P<type>\w+)\s+(?P<name>\w+)\s*\[(?P<count>\d*)\]\s*;"
)
_WORD = re.compile(r"(?<![\w)\]])\*\s*\((?P<type>\w+)\s*\*\)\s*\(")
_CAST = re.compile(r"\((?P<type>(?:unsigned\s+)?\w+)\s*\*\)\s*(?=[(\w])")
_SIZES = {
    "bool": 1,
    "half": 2,
    "float": 4,
    "double": 8,
    "int": 4,
    "uint": 4,
    "unsigned": 4,
    "char": 1,
    "uchar": 1,
    "short": 2,
    "ushort": 2,
} | {f"{sign}int{bits}_t": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)}
_VECTOR = re.compile(r"(?P<type>\w+?)(?P<lanes>[24])")
_DYNAMIC_ALIGN = 128


@dataclass(frozen=True)
class _Parameter:
    declaration: str
    argument: str
    offset: int
    size: int


def image(source: str, arch: str) -> bytes:
    """What a program gives to the emulated driver in place of a compiled module.

    Args:
        source: CUDA C, as TVM writes it.
        arch: the oldest card that shall run it, such as "sm_90".
    """
    return f"{_MARK}{arch.removeprefix('sm_').rstrip('af')}\n{source}".encode()


def is_cuda_c(text: str) -> bool:
    """Whether a module's text is one of `image`'s."""
    return text.startswith(_MARK)


def translate(text: str) -> str:
    """The C++ file of a text of `image`'s.

    Raises:
        EmulatorError: it has a part that is not known here.
    """
    first, _, source = text.partition("\n")
    arch = int(first.removeprefix(_MARK))
    source = re.sub(
        r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), source, flags=re.DOTALL
    )
    source = _INCLUDE.sub("", source)
    out, tables, at = [], [], 0
    while (found := _KERNEL.search(source, at)) is not None:
        out.append(_plain(source, at, found.start()))
        end = closing(source, found.end())
        body = re.compile(r"\s*\{").match(source, end + 1)
        if body is None:  # a declaration
            at = end + 1 + len(source[end + 1 :]) - len(source[end + 1 :].lstrip().lstrip(";"))
            continue
        last = closing(source, body.end())
        parameters = _parameters(source[found.end() : end])
        inside, static, dynamic = _shared(_plain(source, body.end(), last))
        declared = ", ".join(each.declaration for each in parameters)
        lines = "\n" * source.count("\n", found.start(), body.end())
        out.append(f"static void {found['name']}({declared}) {{{lines}{inside}}}\n")
        tables.append(_entry(found, parameters, static, dynamic))
        at = last + 1
    out.append(_plain(source, at, len(source)))
    runners = "".join(runner for runner, _ in tables)
    return (
        f'#include "cuda_c.h"\n#line 1\n{"".join(out)}\nnamespace {{\nusing namespace emu;\n'
        f"{runners}}}\nusing namespace emu;\n{table([entry for _, entry in tables], [], arch)}"
    )


def _plain(source: str, start: int, end: int) -> str:
    """A part of the source with its casts and asm statements rewritten."""
    part = rewrite(source[start:end], source.count("\n", 0, start) + 1)
    part = _WORD.sub(lambda found: f"emu::word<{found['type']}>(", part)
    return _CAST.sub(lambda found: f"emu::Cast<{found['type']}>{{}} ->* ", part)


def _size(kind: str) -> int:
    if kind in _SIZES:
        return _SIZES[kind]
    vector = _VECTOR.fullmatch(kind)
    if vector is None or vector["type"] not in _SIZES:
        raise EmulatorError(f"the type {kind} of the CUDA C is not known here")
    return _SIZES[vector["type"]] * int(vector["lanes"])


def _parameters(text: str) -> list[_Parameter]:
    result, offset = [], 0
    for item in filter(None, (part.strip() for part in split_top(text, ","))):
        pointer, value = _POINTER.fullmatch(item), _VALUE.fullmatch(item)
        if pointer is not None:
            kind, size = f"emu::Pointer<{pointer['type']}>", 8
            argument = f"{kind}{{kGlobal, parameter<uint64_t>(p, {{at}})}}"
            name = pointer["name"]
        elif value is not None:
            kind, size, name = value["type"], _size(value["type"]), value["name"]
            argument = f"parameter<{kind}>(p, {{at}})"
        else:
            raise EmulatorError(f"the parameter {item!r} of the CUDA C is not known here")
        offset = -(-offset // size) * size
        filled = argument.replace("{at}", str(offset))
        result.append(_Parameter(f"{kind} {name}", filled, offset, size))
        offset += size
    return result


def _shared(body: str) -> tuple[str, int, int]:
    """The body with shared arrays as pointers; bytes of them, and where those of a launch begin."""
    end = 0
    for found in _SHARED.finditer(body):
        if not found["extern"]:
            align = int(found["align"] or _size(found["type"]))
            end = -(-end // align) * align + _size(found["type"]) * int(found["count"])
    static, end, dynamic = end, 0, -(-end // _DYNAMIC_ALIGN) * _DYNAMIC_ALIGN

    def pointer(found: re.Match[str]) -> str:
        nonlocal end
        offset = dynamic
        if not found["extern"]:
            align = int(found["align"] or _size(found["type"]))
            offset = -(-end // align) * align
            end = offset + _size(found["type"]) * int(found["count"])
        kind = f"emu::Pointer<{found['type']}>"
        return f"const {kind} {found['name']}{{emu::kShared, {offset}}};"

    return _SHARED.sub(pointer, body), static, dynamic


def _entry(
    found: re.Match[str], parameters: list[_Parameter], static: int, dynamic: int
) -> tuple[str, str]:
    """The function that the emulator calls, and the kernel's line of the table."""
    name = found["name"]
    arguments = ", ".join(each.argument for each in parameters)
    runner = (
        f"void run_{name}(Thread &t, const char *p) {{ (void)p; emu::current = &t; "
        f"{name}({arguments}); }}\n"
    )
    sizes = ", ".join(f"{{{each.offset}, {each.size}}}" for each in parameters)
    given = f"(const Parameter[]){{{sizes}}}" if parameters else "nullptr"
    return runner, (
        f'{{"{name}", run_{name}, {given}, {len(parameters)}, {static}, {dynamic}, 0, '
        f'{found["threads"] or 0}, "CUDA C"}}'
    )
