"""Float instructions: those whose every bit IEEE 754 and the PTX ISA define, and no others.

`add.f32` without `.rn` lets ptxas fuse it with a product, so what a card computes is not defined
by the PTX: it is refused, and the option that avoids it named.
"""

from __future__ import annotations

from tvm_insta.cuda_emulator.ptx.emit import Emitter, c_type, rule
from tvm_insta.cuda_emulator.ptx.integers import Found, Operands

_FLOAT = r"(?P<kind>f32|f64)"
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_ROUND = {"ni": "nearbyint", "zi": "trunc", "mi": "floor", "pi": "ceil"}


@rule(rf"(add|sub|mul)\.{_FLOAT}", 3)
def _contracted(e: Emitter, found: Found, _: Operands) -> str:
    raise e.refuse(
        f"{found[0]} leaves its rounding to ptxas, which may fuse it with another instruction: "
        "compile with nvcc -fmad=false"
    )


@rule(rf"(add|sub|mul|div)\.rn\.{_FLOAT}", 3)
def _arithmetic(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a, b = (e.value(op, kind) for op in ops[1:])
    return e.store(ops[0], kind, f"({c_type(kind)})({a} {_SIGNS[found[1]]} {b})")


@rule(rf"(fma|mad)\.rn\.{_FLOAT}", 4)
def _fma(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    return e.store(ops[0], kind, f"std::fma({', '.join(e.value(op, kind) for op in ops[1:])})")


@rule(rf"(sqrt|rcp)\.rn\.{_FLOAT}", 2)
def _root(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    a = e.value(ops[1], kind)
    one = f"({c_type(kind)})1"
    return e.store(ops[0], kind, f"std::sqrt({a})" if found[1] == "sqrt" else f"{one} / {a}")


@rule(rf"(min|max)(?P<nan>\.NaN)?\.{_FLOAT}", 3)
def _min(e: Emitter, found: Found, ops: Operands) -> str:
    kind, name = found["kind"], "smaller" if found[1] == "min" else "larger"
    a, b = (e.value(op, kind) for op in ops[1:])
    return e.store(ops[0], kind, f"{name}({a}, {b}, {'true' if found['nan'] else 'false'})")


@rule(rf"(neg|abs)\.{_FLOAT}", 2)
def _sign(e: Emitter, found: Found, ops: Operands) -> str:
    kind = found["kind"]
    bits = "b32" if kind == "f32" else "b64"
    sign = "0x80000000u" if kind == "f32" else "0x8000000000000000ull"
    change = f"^ {sign}" if found[1] == "neg" else f"& ~{sign}"
    return e.store(ops[0], bits, f"{e.value(ops[1], bits)} {change}")


@rule(rf"cvt\.rn\.{_FLOAT}\.(?P<of>[us](?:8|16|32|64))", 2)
def _from_integer(e: Emitter, found: Found, ops: Operands) -> str:
    value = e.value(ops[1], found["of"], wider=True)
    return e.store(ops[0], found["kind"], f"({c_type(found['kind'])})({value})")


@rule(r"cvt\.f64\.(?:(?P<kind>[us](?:8|16|32)))", 2)
def _exact_from_integer(e: Emitter, found: Found, ops: Operands) -> str:
    value = e.value(ops[1], found["kind"], wider=True)
    return e.store(ops[0], "f64", f"(double)({value})")


@rule(rf"cvt\.r(?P<round>ni|zi|mi|pi)\.(?P<to>[us](?:8|16|32|64))\.{_FLOAT}", 2)
def _to_integer(e: Emitter, found: Found, ops: Operands) -> str:
    to = found["to"]
    value = f"std::{_ROUND[found['round']]}({e.value(ops[1], found['kind'])})"
    return e.store(ops[0], to, f"to_integer<{c_type(to)}>({value})", wider=True)


@rule(rf"cvt\.r(?P<round>ni|zi|mi|pi)\.(?P<to>f32|f64)\.{_FLOAT}", 2)
def _round(e: Emitter, found: Found, ops: Operands) -> str:
    if found["to"] != found["kind"]:
        raise e.refuse(f"the instruction {found[0]} is not known to the emulator")
    value = f"std::{_ROUND[found['round']]}({e.value(ops[1], found['kind'])})"
    return e.store(ops[0], found["kind"], value)


@rule(r"cvt\.f64\.f32", 2)
def _widen(e: Emitter, _: Found, ops: Operands) -> str:
    return e.store(ops[0], "f64", f"(double)({e.value(ops[1], 'f32')})")


@rule(r"cvt\.rn\.f32\.f64", 2)
def _narrow(e: Emitter, _: Found, ops: Operands) -> str:
    return e.store(ops[0], "f32", f"(float)({e.value(ops[1], 'f64')})")


@rule(r"cvt\.f32\.f16", 2)
def _from_half(e: Emitter, _: Found, ops: Operands) -> str:
    return e.store(ops[0], "f32", f"from_half({e.value(ops[1], 'b16')})")


@rule(r"cvt\.rn\.f16\.f32", 2)
def _to_half(e: Emitter, _: Found, ops: Operands) -> str:
    return e.store(ops[0], "b16", f"to_half({e.value(ops[1], 'f32')})")
