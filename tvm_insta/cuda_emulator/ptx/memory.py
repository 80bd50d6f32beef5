"""Loads, stores, addresses, barriers of a block, and asynchronous copies."""

from __future__ import annotations

from tvm_insta.cuda_emulator.ptx.emit import Emitter, rule
from tvm_insta.cuda_emulator.ptx.integers import Found, Operands
from tvm_insta.cuda_emulator.ptx.syntax import (
    BITS,
    Address,
    Immediate,
    Register,
    Symbol,
    size_of,
)

_KIND = r"(?P<kind>[bus](?:8|16|32|64)|f32|f64)"
_COUNT = r"(?:\.v(?P<count>2|4))?"
_CACHE = r"(?:\.(?:ca|cg|cs|lu|cv|wb|wt|L1::(?:evict_\w+|no_allocate)|L2::(?:64|128|256)B))*"
_SPACES = {"global": "kGlobal", "const": "kGlobal", "shared": "kShared", "local": "kLocal"}


def _bits(kind: str) -> str:
    """The type without a meaning: a NaN keeps its bits on its way through memory."""
    return f"b{BITS[kind]}" if kind[0] == "f" else kind


@rule(rf"ld\.param{_COUNT}\.{_KIND}", 2)
def _parameter(e: Emitter, found: Found, ops: Operands) -> str:
    address = ops[1]
    base = address.base if isinstance(address, Address) else None
    if not isinstance(address, Address) or not isinstance(base, Symbol):
        raise e.refuse("a parameter is read through a register")
    known = {each.name: each for each in e.kernel.parameters}
    count, size = int(found["count"] or 1), size_of(found["kind"])
    where = known.get(base.name)
    if where is None or not 0 <= address.offset <= where.size - count * size:
        raise e.refuse(f"no parameter holds {base.name}+{address.offset}")
    kind = _bits(found["kind"])
    at = where.offset + address.offset
    return " ".join(
        e.store(item, kind, f"parameter<{_c(kind)}>(parameters, {at + size * i})", wider=True)
        for i, item in enumerate(e.items(ops[0], count))
    )


def _c(kind: str) -> str:
    return f"{'int' if kind[0] == 's' else 'uint'}{BITS[kind]}_t"


@rule(
    rf"(ld|ldu)(?:\.(?:weak|volatile|relaxed\.\w+))?(?:\.(?P<space>global|shared|local|const))?"
    rf"(?:\.nc)?{_CACHE}{_COUNT}\.{_KIND}",
    2,
)
def _load(e: Emitter, found: Found, ops: Operands) -> str:
    kind, count = _bits(found["kind"]), int(found["count"] or 1)
    space = _SPACES.get(found["space"] or "", "kGeneric")
    code = f"const auto v = load<{_c(kind)}, {count}>(t, {space}, {e.address(ops[1])}, {e.line}); "
    items = enumerate(e.items(ops[0], count))
    return code + " ".join(e.store(item, kind, f"v.e[{i}]", wider=True) for i, item in items)


@rule(
    rf"st(?:\.(?:weak|volatile|relaxed\.\w+))?(?:\.(?P<space>global|shared|local))?"
    rf"{_CACHE}{_COUNT}\.{_KIND}",
    2,
)
def _store(e: Emitter, found: Found, ops: Operands) -> str:
    kind, count = _bits(found["kind"]), int(found["count"] or 1)
    space = _SPACES.get(found["space"] or "", "kGeneric")
    items = (e.value(item, kind, wider=True) for item in e.items(ops[1], count))
    code = f"const Values<{_c(kind)}, {count}> v = {{{{{', '.join(items)}}}}}; "
    return code + f"store(t, {space}, {e.address(ops[0])}, v, {e.line});"


@rule(r"cvta(?P<to>\.to)?\.(?P<space>global|const|shared|local)\.(?P<kind>u64)", 2)
def _cvta(e: Emitter, found: Found, ops: Operands) -> str:
    value = e.value(ops[1], "u64")
    base = {"shared": "t.shared", "local": "t.local"}.get(found["space"])
    if base is not None:
        value += f" {'-' if found['to'] else '+'} (uint64_t){base}"
    return e.store(ops[0], "u64", value)


@rule(r"(bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?", 1)
def _barrier(e: Emitter, found: Found, ops: Operands) -> str:
    if ops[0] != Immediate(0):
        raise e.refuse("only barrier 0 of all threads is known to the emulator")
    return f"barrier(t, {e.line});"


@rule(r"(membar|fence)\.(?:cta|gl|sys|acq_rel\.\w+|sc\.\w+)", 0)
def _fence(_: Emitter, __: Found, ___: Operands) -> str:
    return ""  # one CPU thread executes all of them in order


@rule(r"cp\.async\.(?P<how>ca|cg)\.shared(?:::cta)?\.global(?:\.L2::(?:64|128|256)B)?", 3, 4)
def _copy(e: Emitter, found: Found, ops: Operands) -> str:
    sizes = (16,) if found["how"] == "cg" else (4, 8, 16)
    size = ops[2].value if isinstance(ops[2], Immediate) else None
    if size not in sizes:
        raise e.refuse(f"{found[0]} copies {' or '.join(map(str, sizes))} bytes")
    real = str(size)
    if len(ops) == 4:
        if not isinstance(ops[3], Register | Immediate):
            raise e.refuse(f"{found[0]} takes the bytes that it reads as a number")
        real = e.value(ops[3], "u32")
    to, source = e.address(ops[0]), e.address(ops[1])
    return f"copy_async(t, {to}, {source}, {size}, {real}, {e.line});"


@rule(r"cp\.async\.(?P<what>commit_group|wait_all)", 0)
def _commit(_: Emitter, found: Found, __: Operands) -> str:
    return "copy_commit(t);" + (" copy_wait(t, 0);" if found["what"] == "wait_all" else "")


@rule(r"cp\.async\.wait_group", 1)
def _wait(e: Emitter, _: Found, ops: Operands) -> str:
    if not isinstance(ops[0], Immediate):
        raise e.refuse("cp.async.wait_group takes a number")
    return f"copy_wait(t, {ops[0].value});"
