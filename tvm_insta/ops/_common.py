"""What every `relax.insta.*` operator shares: registration, attributes, argument checks.

An operator is registered under `relax.insta.<name>` with its type inference and its legalisation,
and its builder is made known to TVMScript, so that a module prints and parses as
`R.insta.<name>(...)`. `_declare` does that for each operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NoReturn, TypeAlias

import tvm
import tvm.relax.script
import tvm.relax.script.parser
import tvm_ffi
from tvm import relax, te, tirx
from tvm.relax.utils import gen_call_tir_inputs

from tvm_insta.errors import OpError

WORD = 32
"""Bits in one packed word: channel c lives in bit c % 32 of word c // 32."""

INJECTIVE = 2
"""TVM's operator pattern for a kernel whose every output is computed from few inputs at once."""

OUT_ELEMENTWISE_FUSABLE = 4
"""TVM's operator pattern for a kernel behind which an element-wise epilogue may be fused."""

OPAQUE = 8
"""TVM's operator pattern for a kernel that FuseOps leaves alone."""

Dim: TypeAlias = "int | tirx.Expr"
"""A dimension: an int where it is known, else a symbolic expression."""

# Without this an OpError raised in type inference reaches the caller as a RuntimeError.
tvm_ffi.register_error("OpError", OpError)

_script = SimpleNamespace()
# `R` is one of two modules, depending on whether Python or TVM's own parser resolves the name.
tvm.relax.script.insta = _script
tvm.relax.script.parser.insta = _script


def register(
    name: str,
    builder: Callable[..., relax.Call],
    infer: Callable[[relax.Call, relax.BlockBuilder], relax.TensorType],
    legalise: Callable[[relax.BlockBuilder, relax.Call], relax.Expr],
) -> None:
    """Register `relax.insta.<name>` with TVM and with TVMScript.

    Args:
        name: of the operator.
        builder: the Python function that makes a call of the operator.
        infer: TVM's FInferType: (call, context) -> type of the result; raises `OpError`.
        legalise: TVM's FLegalize: (block builder, call) -> call of a PrimFunc.
    """
    full = f"relax.insta.{name}"
    tvm.ir.register_op_attr(full, "FInferType", infer)
    tvm.ir.register_op_attr(full, "FLegalize", legalise)
    tvm.ir.register_op_attr(full, "FPurity", True)
    setattr(_script, name, builder)


def make_call(
    name: str, args: Sequence[relax.Expr], **attrs: int | float | str | list[int] | list[str]
) -> relax.Call:
    """A call of `relax.insta.<name>`; it gets its type from the block builder or the parser."""
    return relax.Call(
        tvm.ir.Op.get(f"relax.insta.{name}"),
        list(args),
        tvm.ir.make_node("ir.DictAttrs", **attrs),
    )


def fail(call: relax.Call, sentence: str) -> NoReturn:
    """Raise an `OpError` that opens with the operator's name."""
    raise OpError(f"{call.op.name.removeprefix('relax.')}: {sentence}")


def read_integer(call: relax.Call, name: str, low: int, high: int | None = None) -> int:
    """Integer attribute `name`, checked to lie in low..high."""
    value = call.attrs[name]
    allowed = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    if isinstance(value, bool) or not isinstance(value, int):
        fail(call, f"{name} is {value!r}; pass {allowed}")
    if value < low or (high is not None and value > high):
        fail(call, f"{name} is {value}; pass {allowed}")
    return int(value)


def read_integers(call: relax.Call, name: str, count: int, low: int) -> list[int]:
    """List attribute `name` of `count` integers, each checked to be at least `low`."""
    values = list(call.attrs[name])
    good = all(isinstance(v, int) and not isinstance(v, bool) and v >= low for v in values)
    if len(values) != count or not good:
        fail(call, f"{name} is {values}; pass {count} integers of at least {low}")
    return [int(v) for v in values]


def read_choice(call: relax.Call, name: str, allowed: Sequence[str]) -> str:
    """String attribute `name`, checked to be one of `allowed`."""
    value = str(call.attrs[name])
    if value not in allowed:
        fail(call, f"{name} is {value!r}; pass one of {', '.join(map(repr, allowed))}")
    return value


def dims(
    call: relax.Call, index: int, name: str, ranks: Sequence[int], dtypes: Sequence[str]
) -> list[Dim]:
    """The dimensions of argument `index`, checked for rank and dtype.

    Returns:
        One entry per dimension: an int where it is known, else a symbolic expression.
    """
    if index >= len(call.args):
        fail(call, f"argument {index} ({name}) is missing, got {len(call.args)} arguments")
    ty = call.args[index].ty
    dtype = " or ".join(dtypes)
    wanted = f"a tensor of dtype {dtype} and rank {' or '.join(map(str, ranks))}"
    if not isinstance(ty, relax.TensorType):
        fail(call, f"argument {index} ({name}) is of type {ty}; pass {wanted}")
    if ty.dtype is None or str(ty.dtype.dtype) not in dtypes:
        fail(call, f"argument {index} ({name}) has dtype {ty.dtype}; pass {wanted}")
    if ty.ndim not in ranks:
        fail(call, f"argument {index} ({name}) has rank {ty.ndim}; pass {wanted}")
    if not isinstance(ty.shape, relax.ShapeExpr):
        fail(
            call,
            f"argument {index} ({name}) has no known shape; annotate it with R.match_cast "
            "(symbolic dimensions are allowed)",
        )
    return [int(d) if isinstance(d, tirx.IntImm) else d for d in ty.shape.values]


def same(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are provably equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(tvm.sym.Analyzer().can_prove_equal(a, b))


def expect_dim(call: relax.Call, where: tuple[str, int], got: Dim, want: Dim, why: str) -> None:
    """Check one dimension (argument name, axis); `why` says where the wanted extent comes from."""
    if not same(got, want):
        fail(call, f"dimension {where[1]} of {where[0]} is {got}, but must be {want} ({why})")


def expect_known(call: relax.Call, name: str, shape: Sequence[Dim], axes: Sequence[int]) -> None:
    """Check that the given axes have known, positive extents."""
    for axis in axes:
        if not isinstance(shape[axis], int) or shape[axis] < 1:
            fail(call, f"dimension {axis} of {name} is {shape[axis]}; pass a known extent above 0")


def expect_divisible(call: relax.Call, what: str, value: int, groups: int) -> None:
    """Check that `value` channels split into `groups` equal groups."""
    if value % groups:
        fail(call, f"{value} {what} do not split into groups={groups}; pass a divisor of {value}")


def output_image(
    call: relax.Call,
    image: Sequence[Dim],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int],
) -> list[Dim]:
    """Output height and width of a convolution over `image` = (height, width)."""
    result = []
    for axis, name in enumerate(("height", "width")):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        padded = image[axis] + padding[axis] + padding[axis + 2]
        if isinstance(padded, int) and padded < reach:
            fail(
                call,
                f"the kernel reaches over {reach} pixels of {name}, but the padded image has "
                f"{padded}; pad more or use a smaller kernel or dilation",
            )
        result.append((padded - reach) // strides[axis] + 1)
    return result


def words_for(channels: int) -> int:
    """32-bit words that hold `channels` bits: ceil(channels / 32)."""
    return -(-channels // WORD)


def expect_int32(call: relax.Call, bits: int, words: int, taps: int) -> None:
    """Check that no partial sum of a bit-serial product can leave int32.

    Every partial sum, border table entry and 2 * popsum is at most
    3 * (2**bits - 1) * 32 * words * taps in magnitude.
    """
    if 3 * (2**bits - 1) * WORD * words * taps >= 2**31:
        fail(
            call,
            f"{WORD * words} channels x {taps} taps x {bits} bits may overflow int32; "
            "split the convolution over its input channels",
        )


def extent(value: Dim) -> tirx.Expr:
    """A loop extent as an int64 expression: Relax shapes are int64, and so all indices agree."""
    return tirx.const(value, "int64") if isinstance(value, int) else value


def reduce_axis(size: int, name: str) -> tirx.IterVar:
    """A named int64 reduction axis over 0..size-1."""
    return te.reduce_axis((extent(0), extent(size)), name)


def known(dim: Dim) -> int:
    """The value of a dimension that type inference has already checked to be known."""
    return int(dim)


def primfunc(
    bb: relax.BlockBuilder,
    name: str,
    pattern: int,
    function: Callable[..., te.Tensor],
    args: Sequence[relax.Expr],
    finish: Callable[[tirx.PrimFunc], tirx.PrimFunc] | None = None,
) -> relax.Expr:
    """Legalise to a PrimFunc `name` with TVM's operator pattern `pattern`.

    `function(*te_tensors)` returns the TE tensor of the result; `finish` says what TE cannot.
    """
    made, call_args, ty = gen_call_tir_inputs(
        function, *args, primfunc_attrs={"op_pattern": pattern}
    )
    variable = bb.add_func(finish(made) if finish else made, name)  # equal functions are one
    return relax.op.call_tir(variable, call_args, ty)
