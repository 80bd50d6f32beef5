"""Each instruction of one thread against Python's exact integers and fractions.

All cases of a file are one kernel: every case reads the same operands and writes a row of its own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from tests.cuda_emulator.harness import assembly, launch, require_compiler
from tvm_insta.cuda_emulator import EmulatorError
from tvm_insta.cuda_emulator.ptx.translate import translate

SEED = 11
EDGES = [0, 1, 2, 31, 32, 33, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
COUNT = 256


@dataclass(frozen=True)
class Case:
    """`ptx` writes %o (64 bits) or %ow (32) from a, b, c; `want` says what, modulo 2**64."""

    ptx: str
    want: Callable[[int, int, int], int]


def s(value, bits=32):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def u(value, bits=32):
    return value & ((1 << bits) - 1)


def quotient(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def three(table):
    def bit(a, b, c):
        return sum(
            (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i
            for i in range(32)
        )

    return bit


def permuted(a, b, c):
    pool = [*struct.pack("<I", u(a)), *struct.pack("<I", u(b))]
    picked = [pool[c >> 4 * i & 7] for i in range(4)]
    signed = [(255 if v & 128 else 0) if c >> (4 * i + 3) & 1 else v for i, v in enumerate(picked)]
    return int.from_bytes(bytes(signed), "little")


def extracted(signed, bits):
    def run(a, b, c):
        at, length = b & 255, c & 255
        if not length:
            return 0
        value = (a & (2**bits - 1)) >> at & ((1 << length) - 1)
        sign = a >> min(at + length - 1, bits - 1) & 1
        if signed and sign:
            kept = min(length, max(bits - at, 0))
            value |= -1 << kept
        return value

    return run


def inserted(a, b, c):
    mask = u(((1 << (c >> 8 & 255)) - 1) << (c & 255))
    return u(b) & ~mask | u(a << (c & 255)) & mask


def dot(first, second):
    def run(a, b, c):
        pairs = zip(struct.pack("<I", u(a)), struct.pack("<I", u(b)), strict=True)
        signs = [s if kind == "s" else u for kind in (first, second)]
        return c + sum(signs[0](x, 8) * signs[1](y, 8) for x, y in pairs)

    return run


def dot_halves(first, second, high):
    def run(a, b, c):
        signs = [s if kind == "s" else u for kind in (first, second)]
        numbers = struct.unpack("<2H", struct.pack("<I", u(a)))
        pairs = zip(numbers, struct.pack("<I", u(b))[2 * high :], strict=False)
        return c + sum(signs[0](x, 16) * signs[1](y, 8) for x, y in pairs)

    return run


def funnel(left, wrap):
    def run(a, b, c):
        n = c & 31 if wrap else min(u(c), 32)
        joined = u(b) << 32 | u(a)
        return joined << n >> 32 if left else joined >> n

    return run


def shifted(kind, bits):
    def run(a, b, _):
        n = min(u(b), bits)
        if kind == "l":
            return u(a, bits) << n
        return (s(a, bits) if kind == "s" else u(a, bits)) >> n

    return run


COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def compared(sign, read, bits):
    return lambda a, b, _: int(eval(f"x {sign} y", {"x": read(a, bits), "y": read(b, bits)}))


def integer_cases():
    cases = []
    for bits, o, r in ((32, "%ow", ""), (64, "%o", "l")):
        a, b, c = (f"%{name}{r or 'w'}" for name in "abc")
        a, b, c = (x.replace("l", "") for x in (a, b, c))
        n = {"s": lambda v, w=bits: s(v, w), "u": lambda v, w=bits: u(v, w)}
        add = [
            Case(f"add.s{bits} {o}, {a}, {b};", lambda a, b, c: a + b),
            Case(f"sub.u{bits} {o}, {a}, {b};", lambda a, b, c: a - b),
            Case(f"mul.lo.s{bits} {o}, {a}, {b};", lambda a, b, c: a * b),
            Case(f"mad.lo.u{bits} {o}, {a}, {b}, {c};", lambda a, b, c: a * b + c),
            Case(f"and.b{bits} {o}, {a}, {b};", lambda a, b, c: a & b),
            Case(f"or.b{bits} {o}, {a}, {b};", lambda a, b, c: a | b),
            Case(f"xor.b{bits} {o}, {a}, {b};", lambda a, b, c: a ^ b),
            Case(f"not.b{bits} {o}, {a};", lambda a, b, c: ~a),
            Case(f"neg.s{bits} {o}, {a};", lambda a, b, c: -a),
            Case(f"abs.s{bits} {o}, {a};", lambda a, b, c, f=n["s"]: abs(f(a))),
            Case(f"shl.b{bits} {o}, {a}, %bw;", shifted("l", bits)),
            Case(f"shr.u{bits} {o}, {a}, %bw;", shifted("u", bits)),
            Case(f"shr.s{bits} {o}, {a}, %bw;", shifted("s", bits)),
            Case(
                f"brev.b{bits} {o}, {a};", lambda a, b, c, w=bits: int(f"{u(a, w):0{w}b}"[::-1], 2)
            ),
            Case(f"popc.b{bits} %ow, {a};", lambda a, b, c, w=bits: u(a, w).bit_count()),
            Case(f"clz.b{bits} %ow, {a};", lambda a, b, c, w=bits: w - u(a, w).bit_length()),
            Case(f"bfe.u{bits} {o}, {a}, %bw, %cw;", extracted(False, bits)),
            Case(f"bfe.s{bits} {o}, {a}, %bw, %cw;", extracted(True, bits)),
        ]
        cases += add
        for kind, f in n.items():
            cases += [
                Case(
                    f"mul.hi.{kind}{bits} {o}, {a}, {b};",
                    lambda a, b, c, f=f, w=bits: f(a) * f(b) >> w,
                ),
                Case(f"min.{kind}{bits} {o}, {a}, {b};", lambda a, b, c, f=f: min(f(a), f(b))),
                Case(f"max.{kind}{bits} {o}, {a}, {b};", lambda a, b, c, f=f: max(f(a), f(b))),
                # Divided by an odd number, which is never 0.
                Case(
                    f"or.b{bits} {o}, {b}, 1; div.{kind}{bits} {o}, {a}, {o};",
                    lambda a, b, c, f=f: quotient(f(a), f(b | 1)),
                ),
                Case(
                    f"or.b{bits} {o}, {b}, 1; rem.{kind}{bits} {o}, {a}, {o};",
                    lambda a, b, c, f=f: f(a) - quotient(f(a), f(b | 1)) * f(b | 1),
                ),
            ]
            names = dict(COMPARE)
            if kind == "u":
                names |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
            for name, sign in names.items():
                read = s if kind == "s" else u
                want = compared(sign, read, bits)
                cases.append(
                    Case(f"setp.{name}.{kind}{bits} %p, {a}, {b}; selp.u32 %ow, 1, 0, %p;", want)
                )
    for kind, f in (("s", s), ("u", u)):
        cases += [
            Case(f"mul.wide.{kind}32 %o, %aw, %bw;", lambda a, b, c, f=f: f(a) * f(b)),
            Case(f"mad.wide.{kind}32 %o, %aw, %bw, %c;", lambda a, b, c, f=f: f(a) * f(b) + c),
            Case(
                f"mad.hi.{kind}32 %ow, %aw, %bw, %cw;", lambda a, b, c, f=f: (f(a) * f(b) >> 32) + c
            ),
            Case(f"cvt.{kind}64.{kind}32 %o, %aw;", lambda a, b, c, f=f: f(a)),
            Case(f"cvt.{kind}32.{kind}8 %ow, %aw;", lambda a, b, c, f=f: f(a, 8)),
            Case(f"cvt.{kind}32.{kind}16 %ow, %aw;", lambda a, b, c, f=f: f(a, 16)),
            Case("cvt.u32.u64 %ow, %a;", lambda a, b, c: a),
            Case(
                f"cvt.{kind}16.{kind}32 %h, %aw; mul.wide.{kind}16 %ow, %h, %h;",
                lambda a, b, c, f=f: f(a, 16) ** 2,
            ),
            Case(
                f"cvt.{kind}16.{kind}32 %h, %aw; mul.hi.{kind}16 %h, %h, %h; "
                f"cvt.{kind}32.{kind}16 %ow, %h;",
                lambda a, b, c, f=f: f(f(a, 16) ** 2 >> 16, 16),
            ),
        ]
    for table in (0x00, 0x96, 0xE8, 0xCA, 0x80, 0xFE, 0x1B):
        cases.append(Case(f"lop3.b32 %ow, %aw, %bw, %cw, {table};", three(table)))
    cases += [
        Case("prmt.b32 %ow, %aw, %bw, %cw;", permuted),
        Case("bfi.b32 %ow, %aw, %bw, 5, 9;", lambda a, b, c: inserted(a, b, 5 | 9 << 8)),
        Case("bfi.b32 %ow, %aw, %bw, 28, 9;", lambda a, b, c: inserted(a, b, 28 | 9 << 8)),
        *(
            Case(f"dp2a.{half}.{x}32.{y}32 %ow, %aw, %bw, %cw;", dot_halves(x, y, half == "hi"))
            for half in ("lo", "hi")
            for x in "su"
            for y in "su"
        ),
        *(Case(f"dp4a.{x}32.{y}32 %ow, %aw, %bw, %cw;", dot(x, y)) for x in "su" for y in "su"),
        *(
            Case(f"shf.{way}.{mode}.b32 %ow, %aw, %bw, %cw;", funnel(way == "l", mode == "wrap"))
            for way in "lr"
            for mode in ("wrap", "clamp")
        ),
        Case("mov.b64 {%t, %ow}, %a;", lambda a, b, c: a >> 32),
        Case("mov.b64 %o, {%aw, %bw};", lambda a, b, c: u(a) | u(b) << 32),
        Case(
            "setp.lt.s32 %p, %aw, %bw; setp.ne.and.u32 %p, %aw, %cw, %p; selp.u32 %ow, 1, 0, %p;",
            lambda a, b, c: int(s(a) < s(b) and u(a) != u(c)),
        ),
        Case(
            "setp.lt.s32 %p|%q, %aw, %bw; not.pred %q, %q; xor.pred %p, %p, %q; "
            "selp.u32 %ow, 1, 0, %p;",
            lambda a, b, c: 0,
        ),
        Case(
            "mov.u32 %ow, 7; setp.eq.u32 %p, %aw, %bw; @!%p mov.u32 %ow, 9;",
            lambda a, b, c: 7 if u(a) == u(b) else 9,
        ),
    ]
    return cases


INTEGERS = integer_cases()
HEAD = """.reg .b64 %o, %a, %b, %c, %at, %to; .reg .b32 %ow, %aw, %bw, %cw, %lane, %t, %w0;
.reg .pred %p, %q; .reg .b16 %h; .reg .b32 %f<4>; .reg .b64 %d<4>;"""
LOAD = """mov.u32 %lane, %tid.x; mul.wide.u32 %at, %lane, 8;
add.s64 %to, %x, %at; ld.global.u64 %a, [%to]; add.s64 %to, %y, %at; ld.global.u64 %b, [%to];
add.s64 %to, %z, %at; ld.global.u64 %c, [%to]; add.s64 %to, %out, %at;
cvt.u32.u64 %aw, %a; cvt.u32.u64 %bw, %b; cvt.u32.u64 %cw, %c;"""


def run_cases(cases, x, y, z):
    """Rows of 64-bit results, one for each case; results of 32 bits without a sign."""
    body = [LOAD]
    for number, case in enumerate(cases):
        wide = "%o" in case.ptx.replace("%ow", "")
        body.append(case.ptx)
        body.append("" if wide else "cvt.u64.u32 %o, %ow;")
        body.append(f"st.global.u64 [%to+{number * 8 * COUNT}], %o;")
    ptx = assembly("\n".join(body), HEAD, ("x", "y", "z", "out"))
    out = np.zeros((len(cases), COUNT), np.uint64)
    return launch(ptx, [x, y, z, out], block=(COUNT, 1, 1))[-1]


def operands(rng):
    values = rng.integers(0, 2**64, (3, COUNT), dtype=np.uint64)
    values[1, ::3] %= np.uint64(70)  # amounts of shifts and lengths of fields
    values[2, ::2] %= np.uint64(70)
    pairs = [(p, q) for p in EDGES for q in EDGES][: COUNT // 2]
    values[:2, : len(pairs)] = np.array(pairs, np.uint64).T
    return values


def test_integers():
    require_compiler()
    print(f"seed {SEED}")
    x, y, z = operands(np.random.default_rng(SEED))
    found = run_cases(INTEGERS, x, y, z)
    for case, row in zip(INTEGERS, found, strict=True):
        bits = 64 if "%o" in case.ptx.replace("%ow", "") else 32
        for a, b, c, got in zip(*(v.tolist() for v in (x, y, z, row)), strict=True):
            want = u(case.want(a, b, c), bits)
            assert got == want, f"{case.ptx} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}"


def nearest(value, dtype):
    """The float nearest to a fraction, ties to even."""
    guess = dtype(float(value))
    around = [guess, np.nextafter(guess, dtype(-np.inf)), np.nextafter(guess, dtype(np.inf))]
    even = {4: np.uint32, 8: np.uint64}[guess.nbytes]
    finite = [f for f in around if np.isfinite(f)]
    return min(finite, key=lambda f: (abs(Fraction(float(f)) - value), int(f.view(even)) & 1))


ARITHMETIC = {
    "add.rn": lambda a, b, c: a + b,
    "sub.rn": lambda a, b, c: a - b,
    "mul.rn": lambda a, b, c: a * b,
    "div.rn": lambda a, b, c: a / b,
    "fma.rn": lambda a, b, c: a * b + c,
}


@pytest.mark.parametrize("bits", [32, 64])
def test_rounding(bits):
    """The results of sums, products, quotients and fused products are the nearest floats."""
    require_compiler()
    rng = np.random.default_rng(SEED)
    dtype, words = (np.float32, np.uint32) if bits == 32 else (np.float64, np.uint64)
    values = (rng.standard_normal((3, COUNT)) * 2.0 ** rng.integers(-6, 6, (3, COUNT))).astype(
        dtype
    )
    values[2, ::2] = -(values[0] * values[1])[::2]  # what only a fused product does not lose
    given = [v.view(words).astype(np.uint64) for v in values]
    o, names = ("%ow", "%aw, %bw, %cw") if bits == 32 else ("%o", "%a, %b, %c")
    two = names.rpartition(",")[0]
    cases = [
        Case(f"{op}.f{bits} {o}, {names if 'fma' in op else two};", want)
        for op, want in ARITHMETIC.items()
    ]
    found = run_cases(cases, *given)
    for case, row in zip(cases, found, strict=True):
        for a, b, c, got in zip(*values, row.astype(words).view(dtype), strict=True):
            want = nearest(case.want(*(Fraction(float(v)) for v in (a, b, c))), dtype)
            assert got == want, f"{case.ptx} of {a!r}, {b!r}, {c!r}: {got!r}, not {want!r}"


NAN, INF = float("nan"), float("inf")
SPECIAL = [0.0, -0.0, 1.0, -1.5, 2.5, NAN, INF, -INF, 1e-45, 3e38, -2147483648.0, 4294967296.0]
FLOAT_COMPARE = {
    **{
        name: (lambda a, b, sign=sign: eval(f"a {sign} b", {"a": a, "b": b}))
        for name, sign in COMPARE.items()
    },
    "ne": lambda a, b: a != b and not math.isnan(a) and not math.isnan(b),
    "num": lambda a, b: not math.isnan(a) and not math.isnan(b),
    "nan": lambda a, b: math.isnan(a) or math.isnan(b),
}
FLOAT_COMPARE |= {
    f"{name}u": (lambda a, b, f=FLOAT_COMPARE[name]: math.isnan(a) or math.isnan(b) or f(a, b))
    for name in COMPARE
}


def lesser(a, b):
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return min((a, b), key=lambda v: (v, math.copysign(1, v)))


def integer_of(rounded, low, high):
    def run(a, b, c):
        if math.isnan(a):
            return 0
        return min(max(rounded(a), low), high) if math.isfinite(a) else (low if a < 0 else high)

    return run


def test_special_floats():
    """NaN, infinities, zeros with signs, and numbers beyond the integers."""
    require_compiler()
    pairs = [(a, b) for a in SPECIAL for b in SPECIAL]
    pairs += [(1.0, 1.0)] * (COUNT - len(pairs))
    x, y = np.array(pairs, np.float32).T
    words = [v.copy().view(np.uint32).astype(np.uint64) for v in (x, y, y)]
    cases = [
        *(
            Case(
                f"setp.{name}.f32 %p, %aw, %bw; selp.u32 %ow, 1, 0, %p;",
                lambda a, b, c, f=f: int(f(a, b)),
            )
            for name, f in FLOAT_COMPARE.items()
        ),
        Case("min.f32 %ow, %aw, %bw;", lambda a, b, c: lesser(a, b)),
        Case("max.f32 %ow, %aw, %bw;", lambda a, b, c: -lesser(-a, -b)),
        Case(
            "min.NaN.f32 %ow, %aw, %bw;",
            lambda a, b, c: NAN if math.isnan(a) or math.isnan(b) else lesser(a, b),
        ),
        Case("neg.f32 %ow, %aw; neg.f32 %ow, %ow;", lambda a, b, c: a),
        Case("abs.f32 %ow, %aw;", lambda a, b, c: abs(a)),
        Case("cvt.rzi.s32.f32 %ow, %aw;", integer_of(math.trunc, -(2**31), 2**31 - 1)),
        Case("cvt.rni.s32.f32 %ow, %aw;", integer_of(round, -(2**31), 2**31 - 1)),
        Case("cvt.rmi.s32.f32 %ow, %aw;", integer_of(math.floor, -(2**31), 2**31 - 1)),
        Case("cvt.rzi.u32.f32 %ow, %aw;", integer_of(math.trunc, 0, 2**32 - 1)),
        Case("cvt.rzi.u64.f32 %o, %aw;", integer_of(math.trunc, 0, 2**64 - 1)),
        Case(
            "cvt.f64.f32 %o, %aw; cvt.rn.f32.f64 %ow, %o; mov.u64 %o, 0; cvt.u64.u32 %o, %ow;",
            lambda a, b, c: a,
        ),
        Case("mov.f32 %f1, 0f3FC00000; mul.rn.f32 %ow, %f1, 0f40000000;", lambda a, b, c: 3.0),
        Case(
            "add.rn.f32 %ow, %aw, %bw;",
            lambda a, b, c: (
                NAN
                if math.isnan(a) or math.isnan(b) or (abs(a) == abs(b) == INF and a != b)
                else float(np.float32(a) + np.float32(b))
            ),
        ),
    ]
    found = run_cases(cases, *words)
    for case, row in zip(cases, found, strict=True):
        for a, b, got in zip(x.tolist(), y.tolist(), row.tolist(), strict=True):
            want = case.want(a, b, b)
            if isinstance(want, float):
                bits = struct.unpack("<I", struct.pack("<f", want))[0]
                if math.isnan(want):
                    assert got & 0x7FFFFFFF > 0x7F800000, f"{case.ptx} of {a}, {b}: {got:#x}"
                    continue
            else:
                bits = u(want, 64 if "%o" in case.ptx.replace("%ow", "") else 32)
            assert got == bits, f"{case.ptx} of {a}, {b}: {got:#x}, not {bits:#x}"


def test_conversions_from_integers_and_halves():
    require_compiler()
    rng = np.random.default_rng(SEED)
    x = rng.integers(0, 2**64, COUNT, dtype=np.uint64)
    y = np.arange(COUNT, dtype=np.uint64) * np.uint64(257) % np.uint64(65536)
    y[:8] = [0, 0x8000, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0xFC00]
    z = rng.standard_normal(COUNT).astype(np.float32) * 2.0 ** rng.integers(-28, 20, COUNT)
    z = z.astype(np.float32)
    z[:6] = [65519.9, 65520.0, 5.9e-8, 2.9e-8, 0.0, -0.0]
    cases = [
        Case("cvt.rn.f32.s32 %ow, %aw;", None),
        Case("cvt.rn.f32.u32 %ow, %aw;", None),
        Case("cvt.rn.f64.s64 %o, %a;", None),
        Case("cvt.u16.u32 %h, %bw; cvt.f32.f16 %ow, %h;", None),
        Case("cvt.rn.f16.f32 %h, %cw; cvt.u32.u16 %ow, %h;", None),
    ]
    found = run_cases(cases, x, y, z.view(np.uint32).astype(np.uint64))
    low = x.astype(np.uint32)
    as_float = found.astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(as_float[0], low.view(np.int32).astype(np.float32))
    np.testing.assert_array_equal(as_float[1], low.astype(np.float32))
    np.testing.assert_array_equal(found[2].view(np.float64), x.view(np.int64).astype(np.float64))
    halves = y.astype(np.uint16).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(as_float[3], halves)
    with np.errstate(over="ignore"):
        want = z.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(found[4].astype(np.uint16), want)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("ex2.approx.f32 %ow, %aw;", "ex2.approx.f32 is not known"),
        ("add.f32 %ow, %aw, %bw;", "-fmad=false"),
        ("add.sat.s32 %ow, %aw, %bw;", "add.sat.s32 is not known"),
        ("add.s32 %ow, %aw;", "add.s32 with 2 operands"),
        ("add.s32 %ow, %a, %bw;", "the b64 register r_a is read as u32"),
        ("add.s32 %o, %aw, %bw;", "a u32 is written to the b64 register r_o"),
        ("mov.u32 %ow, %clock;", "operand not known"),
        ("bar.sync 1;", "only barrier 0"),
        ("ld.param.u64 %o, [out+8];", "no parameter holds"),
        ("bra nowhere;", "no label"),
        ("mov.u64 %o, nowhere;", "no array"),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%aw}, {%aw}, {%aw}, {%aw};",
            "not known",
        ),
        ("frobnicate.b32 %ow, %aw;", "frobnicate.b32 is not known"),
    ],
)
def test_what_is_not_known_is_refused(body, why):
    with pytest.raises(EmulatorError, match=why):
        translate(assembly(LOAD + body, HEAD, ("x", "y", "z", "out")))


@pytest.mark.parametrize(
    "text", ["", "int main() {}", ".version 8.0\n.target sm_90\n.address_size 32\n"]
)
def test_what_is_no_ptx_is_refused(text):
    with pytest.raises(EmulatorError):
        translate(text)


def test_division_by_zero_is_an_error():
    require_compiler()
    ptx = assembly("mov.u32 %t, 0; div.s32 %ow, 1, %t;", HEAD)
    with pytest.raises(EmulatorError, match="division by zero"):
        launch(ptx, [np.zeros(1, np.uint32)])
