"""Integer, bit and predicate instructions, moves, conversions and branches."""

from __future__ import annotations

import re

from tvm_insta.cuda_emulator.ptx.emit import Emitter, c_type, rule
from tvm_insta.cuda_emulator.ptx.syntax import BITS, Operand, Pair, Vector

_INT = r"(?P<kind>[us](?:16|32|64))"
_SIGNS = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}

Found = re.Match[str]
Operands = tuple[Operand, ...]


def _unsigned(kind: str) -> str:
    return f"u{BITS[kind]}"


def _wide(kind: str) -> str:
    """A type of at least 32 unsigned bits, in which C++ does not overflow."""
    return f"uint{max(32, BITS[kind])}_t"


@rule(r"mov\.(?P<kind>pred|[bus](?:16|32|64)|f32|f64)", 2)
def _mov(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    if isinstance(ops[0], Vector):
        if kind[0] != "b":
            raise e.refuse(f"mov.{kind} takes a register apart")
        part = BITS[kind] // len(ops[0].items)
        source = e.value(ops[1], kind)
        return " ".join(
            e.store(item, f"b{part}", f"{source} >> {part * i}")
            for i, item in enumerate(ops[0].items)
        )
    if isinstance(ops[1], Vector):
        if kind[0] != "b":
            raise e.refuse(f"mov.{kind} puts a register together")
        part = BITS[kind] // len(ops[1].items)
        parts = (
            f"((uint{BITS[kind]}_t){e.value(item, f'b{part}')} << {part * i})"
            for i, item in enumerate(ops[1].items)
        )
        return e.store(ops[0], kind, " | ".join(parts))
    bits = kind if kind == "pred" else f"b{BITS[kind]}"  # a NaN keeps its bits
    return e.store(ops[0], bits, e.value(ops[1], bits))


@rule(rf"(add|sub)\.{_INT}", 3)
def _add(e: Emitter, found: Found, ops: Operands) -> str:
    kind = _unsigned(found["kind"])
    a, b = (f"({_wide(kind)}){e.value(op, kind)}" for op in ops[1:])
    return e.store(ops[0], kind, f"{a} {_SIGNS[found[1]]} {b}")


@rule(rf"(mul|mad)\.lo\.{_INT}", 3, 4)
def _mul_lo(e: Emitter, found: Found, ops: Operands) -> str:
    kind = _unsigned(found["kind"])
    parts = [f"({_wide(kind)}){e.value(op, kind)}" for op in ops[1:]]
    return e.store(ops[0], kind, _product(e, found[1], parts))


@rule(r"(mul|mad)\.wide\.(?P<kind>[us](?:16|32))", 3, 4)
def _mul_wide(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    double = f"{kind[0]}{2 * BITS[kind]}"
    # Sign extended, then multiplied without a sign: the same bits, and no overflow in C++.
    cast = f"({_wide(double)})({c_type(double)})"
    parts = [f"{cast}{e.value(op, kind)}" for op in ops[1:3]]
    parts += [f"{cast}{e.value(op, double)}" for op in ops[3:]]
    return e.store(ops[0], double, _product(e, found[1], parts))


@rule(r"(mul|mad)\.hi\.(?P<kind>[us](?:16|32|64))", 3, 4)
def _mul_hi(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a, b = (e.value(op, kind) for op in ops[1:3])
    high = f"({_wide(kind)})high_half({a}, {b})"
    added = [f"({_wide(kind)}){e.value(op, kind)}" for op in ops[3:]]
    if len(added) != (found[1] == "mad"):
        raise e.refuse(f"{found[0]} with {len(ops)} operands")
    return e.store(ops[0], kind, " + ".join([high, *added]))


def _product(e: Emitter, name: str, parts: list[str]) -> str:
    if len(parts) != (3 if name == "mad" else 2):
        raise e.refuse(f"{name} with {len(parts) + 1} operands")
    product = f"{parts[0]} * {parts[1]}"
    return f"{product} + {parts[2]}" if name == "mad" else product


@rule(rf"(div|rem)\.{_INT}", 3)
def _div(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    name = "quotient" if found[1] == "div" else "remainder_of"
    a, b = (e.value(op, kind) for op in ops[1:])
    return e.store(ops[0], kind, f"{name}<{c_type(kind)}>(t, {e.line}, {a}, {b})")


@rule(rf"(min|max)\.{_INT}", 3)
def _min(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a, b = (e.value(op, kind) for op in ops[1:])
    return e.store(ops[0], kind, f"{a} {'<' if found[1] == 'min' else '>'} {b} ? {a} : {b}")


@rule(r"(and|or|xor)\.(?P<kind>pred|b(?:16|32|64))", 3)
def _bitwise(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a, b = (e.value(op, kind) for op in ops[1:])
    return e.store(ops[0], kind, f"{a} {_SIGNS[found[1]]} {b}")


@rule(r"not\.(?P<kind>pred|b(?:16|32|64))", 2)
def _not(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    return e.store(ops[0], kind, f"{'!' if kind == 'pred' else '~'}{e.value(ops[1], kind)}")


@rule(r"(neg|abs)\.(?P<kind>s(?:16|32|64))", 2)
def _neg(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a = e.value(ops[1], kind)
    minus = f"0 - ({_wide(kind)}){a}"
    return e.store(ops[0], kind, minus if found[1] == "neg" else f"{a} < 0 ? {minus} : {a}")


@rule(r"(shl|shr)\.(?P<kind>[bus](?:16|32|64))", 3)
def _shift(e: Emitter, found: Found, ops: Operands) -> str:
    kind, name = found["kind"], "shift_left" if found[1] == "shl" else "shift_right"
    if found[1] == "shl" and kind[0] != "b":
        raise e.refuse(f"the instruction {found[0]} is not known to the emulator")
    a, n = e.value(ops[1], kind), e.value(ops[2], "u32")
    return e.store(ops[0], kind, f"{name}<{c_type(kind)}>({a}, {n})")


@rule(r"shf\.(?P<way>l|r)\.(?P<mode>wrap|clamp)\.b32", 4)
def _funnel(e: Emitter, found: Found, ops: Operands) -> str:
    low, high, n = (e.value(op, "u32") for op in ops[1:])
    n = f"({n} & 31)" if found["mode"] == "wrap" else f"least<uint32_t>({n}, 32)"
    joined = f"(((uint64_t){high} << 32) | {low})"
    value = f"({joined} << {n}) >> 32" if found["way"] == "l" else f"{joined} >> {n}"
    return e.store(ops[0], "b32", f"(uint32_t)({value})")


@rule(r"lop3\.b32", 5)
def _lop3(e: Emitter, _: Found, ops: Operands) -> str:
    return e.store(ops[0], "b32", f"lop3({', '.join(e.value(op, 'u32') for op in ops[1:])})")


@rule(r"prmt\.b32", 4)
def _prmt(e: Emitter, _: Found, ops: Operands) -> str:
    return e.store(ops[0], "b32", f"prmt({', '.join(e.value(op, 'u32') for op in ops[1:])})")


@rule(r"(popc|clz|brev)\.(?P<kind>b32|b64)", 2)
def _count(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    name = {"popc": "ones", "clz": "leading_zeros", "brev": "reversed"}[found[1]]
    out = kind if found[1] == "brev" else "u32"
    return e.store(ops[0], out, f"{name}({e.value(ops[1], kind)})")


@rule(r"bfe\.(?P<kind>[us](?:32|64))", 4)
def _bfe(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    value, at, length = e.value(ops[1], kind), e.value(ops[2], "u32"), e.value(ops[3], "u32")
    return e.store(ops[0], kind, f"field<{c_type(kind)}>({value}, {at}, {length})")


@rule(r"bfi\.(?P<kind>b32|b64)", 5)
def _bfi(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a, b = e.value(ops[1], kind), e.value(ops[2], kind)
    at, length = e.value(ops[3], "u32"), e.value(ops[4], "u32")
    return e.store(ops[0], kind, f"insert<{c_type(kind)}>({a}, {b}, {at}, {length})")


@rule(r"dp4a\.(?P<a>[us])32\.(?P<b>[us])32", 4)
def _dp4a(e: Emitter, found: Found, ops: Operands) -> str:
    kind = "u32" if found["a"] == found["b"] == "u" else "s32"
    a, b, c = (e.value(op, "u32") for op in ops[1:])
    types = ", ".join("int8_t" if found[name] == "s" else "uint8_t" for name in "ab")
    return e.store(ops[0], kind, f"{c} + dot_bytes<{types}>({a}, {b})")


@rule(r"dp2a\.(?P<half>lo|hi)\.(?P<a>[us])32\.(?P<b>[us])32", 4)
def _dp2a(e: Emitter, found: Found, ops: Operands) -> str:
    kind = "u32" if found["a"] == found["b"] == "u" else "s32"
    a, b, c = (e.value(op, "u32") for op in ops[1:])
    types = ", ".join(
        f"{'' if found[name] == 's' else 'u'}int{bits}_t" for name, bits in (("a", 16), ("b", 8))
    )
    shift = 16 if found["half"] == "hi" else 0
    return e.store(ops[0], kind, f"{c} + dot_halves<{types}>({a}, {b} >> {shift})")


@rule(
    r"setp\.(?P<compare>[a-z]{2,3})(?:\.(?P<join>and|or|xor))?"
    r"\.(?P<kind>[bus](?:16|32|64)|f32|f64)",
    3,
    4,
)
def _setp(e: Emitter, found: Found, ops: Operands) -> str:
    kind, join = found["kind"], found["join"]
    if (join is not None) != (len(ops) == 4):
        raise e.refuse(f"{found[0]} with {len(ops)} operands")
    a, b = (e.value(op, kind) for op in ops[1:3])
    outcome = _compared(e, found["compare"], kind, a, b)
    joined = "c" if join is None else f"c {_SIGNS[join]} p"
    code = f"const bool c = {outcome}; "
    if join is not None:
        code += f"const bool p = {e.value(ops[3], 'pred')}; "
    if isinstance(ops[0], Pair):
        inverse = "!c" if join is None else f"(!c) {_SIGNS[join]} p"
        first = e.store(ops[0].first, "pred", joined)
        return code + first + e.store(ops[0].second, "pred", inverse)
    return code + e.store(ops[0], "pred", joined)


def _compared(e: Emitter, compare: str, kind: str, a: str, b: str) -> str:
    known = dict(_COMPARE)
    if kind[0] == "u":
        known |= _UNSIGNED
    if kind[0] == "b":
        known = {name: _COMPARE[name] for name in ("eq", "ne")}
    unordered = f"not_ordered({a}, {b})"
    if kind[0] != "f":
        if compare not in known:
            raise e.refuse(f"the comparison {compare}.{kind} is not known to the emulator")
        return f"{a} {known[compare]} {b}"
    if compare in ("num", "nan"):
        return unordered if compare == "nan" else f"!{unordered}"
    base = compare.removesuffix("u") if len(compare) == 3 else compare
    if base not in _COMPARE:
        raise e.refuse(f"the comparison {compare}.{kind} is not known to the emulator")
    plain = f"{a} {_COMPARE[base]} {b}"
    if base != compare:
        return f"({unordered} || {plain})"
    return f"({plain} && !{unordered})"


@rule(r"selp\.(?P<kind>[bus](?:16|32|64)|f32|f64)", 4)
def _selp(e: Emitter, found: Found, ops: Operands) -> str:
    kind = f"b{BITS[found['kind']]}"
    condition, a, b = e.value(ops[3], "pred"), e.value(ops[1], kind), e.value(ops[2], kind)
    return e.store(ops[0], kind, f"{condition} ? {a} : {b}")


@rule(r"cvt\.(?P<to>[us](?:8|16|32|64))\.(?P<kind>[us](?:8|16|32|64))", 2)
def _cvt(e: Emitter, found: Found, ops: Operands) -> str:
    value = e.value(ops[1], found["kind"], wider=True)
    return e.store(ops[0], found["to"], value, wider=True)


@rule(r"bra(?:\.uni)?", 1)
def _bra(e: Emitter, _: Found, ops: Operands) -> str:
    return f"goto {e.label(ops[0])};"


@rule(r"(ret|exit)(?:\.uni)?", 0)
def _ret(_: Emitter, __: Found, ___: Operands) -> str:
    return "return;"
