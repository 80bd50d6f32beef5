"""Elementwise operators, comparisons, selections and conversions; inputs go by parameter name."""

# ruff: noqa: PLW0108 (a case's parameters name its inputs)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Function = Callable[..., torch.Tensor]


def _converted(name: str, dtype: torch.dtype) -> Function:
    return {
        "x": lambda x: x.to(dtype),
        "i": lambda i: i.to(dtype),
        "b": lambda b: b.to(dtype),
        "u": lambda u: u.to(dtype),
    }[name]


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[x >= 0] = 1.0
    y[x < 0] = -1.0
    return y


def _moved_under_masks(x: torch.Tensor) -> torch.Tensor:
    """Values from under the same mask, of the tensor itself and of another."""
    y, up = x.floor(), (x - x.floor()) >= 0.5
    y[up] = y[up] + 1
    low = y < 0
    y[low] = torch.where(x[low] < -1, x.sin()[low] * 2, y[low].abs())
    y[~low] *= 3
    return y


def _rows_under_a_mask(x: torch.Tensor) -> torch.Tensor:
    y, rows = x.clone(), x.mean(-1) > 0
    y[rows] = 0.25
    y[~rows] = torch.linspace(-1, 1, x.shape[-1])
    return y


def _counted_under_a_mask(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[x > 0] = x[x > 0].cumsum(0)
    return y


def _filled_in_place(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y.add_(1.0)
    y.masked_fill_(x < 0, -1.0)
    return y


UNARY: dict[str, Function] = {
    name: (lambda x, name=name: getattr(torch, name)(x))
    for name in (
        "abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor frac "
        "isfinite isinf isnan log log10 log1p log2 neg positive reciprocal round rsqrt sgn sigmoid "
        "sign signbit sin sinc sinh sqrt square tan tanh trunc deg2rad rad2deg nan_to_num "
        "logical_not logit relu selu celu"
    ).split()
} | {
    "round decimals": lambda x: torch.round(x, decimals=1),
    "round decimals negative": lambda x: torch.round(x * 10, decimals=-1),
    "erfinv of tanh": lambda x: torch.special.expit(x),
    "nan_to_num values": lambda x: torch.nan_to_num(x, nan=1.0, posinf=2.0, neginf=-3.0),
    "isposinf": lambda x: torch.isposinf(x),
    "isneginf": lambda x: torch.isneginf(x),
    "logit eps": lambda x: torch.logit(x, eps=1e-2),
    "frac twice": lambda x: x - x.floor(),
}

UNARY_OTHER_TYPES: dict[str, Function] = {
    "abs int": lambda i: i.abs(),
    "neg int": lambda i: -i,
    "sign int": lambda i: i.sign(),
    "sgn int": lambda i: torch.sgn(i),
    "signbit int": lambda i: torch.signbit(i),
    "square int": lambda i: i.square(),
    "exp int": lambda i: i.exp(),
    "log int": lambda i: i.abs().log(),
    "sqrt int": lambda i: i.abs().sqrt(),
    "rsqrt int": lambda i: (i.abs() + 1).rsqrt(),
    "sigmoid int": lambda i: i.sigmoid(),
    "tanh int": lambda i: i.tanh(),
    "sin int": lambda i: i.sin(),
    "erf int": lambda i: i.erf(),
    "reciprocal int": lambda i: (i * 2 + 1).reciprocal(),
    "floor int": lambda i: i.floor(),
    "ceil int": lambda i: i.ceil(),
    "round int": lambda i: i.round(),
    "trunc int": lambda i: i.trunc(),
    "isnan int": lambda i: i.isnan(),
    "isinf int": lambda i: i.isinf(),
    "isfinite int": lambda i: i.isfinite(),
    "relu int": lambda i: i.relu(),
    "clamp int": lambda i: i.clamp(-1, 2),
    "clamp int by floats": lambda i: i.clamp(-0.5, 1.5),
    "logical_not int": lambda i: i.logical_not(),
    "bitwise_not int": lambda i: ~i,
    "bitwise_not bool": lambda b: ~b,
    "logical_not bool": lambda b: b.logical_not(),
    "sigmoid bool": lambda b: b.sigmoid(),
    "exp bool": lambda b: b.exp(),
    "neg of bool as float": lambda b: -b.float(),
    "abs int8": lambda i: i.to(torch.int8).abs(),
    "sign int32": lambda i: i.int().sign(),
    "square uint8": lambda u: u.square(),
    "neg uint8": lambda u: -u,
    "sqrt uint8": lambda u: u.sqrt(),
    "exp float64": lambda x: x.double().exp(),
    "tanh float64": lambda x: x.double().tanh(),
    "erf float64": lambda x: x.double().erf(),
}

BINARY: dict[str, Function] = {
    name: (lambda x, y, name=name: getattr(torch, name)(x, y))
    for name in (
        "add sub mul div maximum minimum fmax fmin pow remainder fmod atan2 floor_divide copysign "
        "hypot eq ne lt le gt ge logical_and logical_or logical_xor logaddexp logaddexp2 rsub "
        "xlogy heaviside true_divide max min isclose dist_of"
    )
    .replace(" dist_of", "")
    .split()
} | {
    "add alpha": lambda x, y: torch.add(x, y, alpha=2.5),
    "add alpha int": lambda i, j: torch.add(i, j, alpha=3),
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=0.5),
    "rsub alpha": lambda x, y: torch.rsub(x, y, alpha=2.0),
    "rsub scalar": lambda x: torch.rsub(x, 1.5),
    "rsub scalar alpha": lambda x: torch.rsub(x, 1.5, alpha=3.0),
    "add scalar alpha": lambda x: torch.add(x, 3, alpha=2),
    "div trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "div floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "div trunc scalar": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "div floor scalar": lambda x: torch.div(x, -0.3, rounding_mode="floor"),
    "div int": lambda i, j: i / (j.abs() + 1),
    "div int trunc": lambda i, j: torch.div(i, j.abs() + 1, rounding_mode="trunc"),
    "div int floor": lambda i, j: torch.div(i, j.abs() + 1, rounding_mode="floor"),
    "div int by scalar": lambda i: i / 3,
    "div int by float trunc": lambda i: torch.div(i, 1.5, rounding_mode="trunc"),
    "floor_divide int scalar": lambda i: i // 3,
    "floor_divide scalar": lambda x: x // 0.7,
    "remainder int": lambda i, j: i % (j.abs() + 1),
    "remainder negative int": lambda i: i % -3,
    "remainder scalar": lambda x: x % -0.7,
    "remainder scalar left": lambda x: 2.5 % x,
    "fmod int": lambda i: torch.fmod(i, 3),
    "fmod scalar": lambda x: torch.fmod(x, 0.7),
    "pow scalar 2": lambda x: x**2,
    "pow scalar 3": lambda x: x**3,
    "pow scalar -1": lambda x: x**-1,
    "pow scalar 0.5": lambda x: x**0.5,
    "pow scalar -0.5": lambda x: x**-0.5,
    "pow scalar 0": lambda x: x**0,
    "pow scalar 1.5": lambda x: x**1.5,
    "pow of scalar": lambda x: 2.0**x,
    "pow of int scalar": lambda x: 2**x,
    "pow int": lambda i: i**2,
    "pow int cubed": lambda i: i**3,
    "pow int zero": lambda i: i**0,
    "pow int by float": lambda i: i.abs() ** 0.5,
    "pow int tensor": lambda i, j: i ** j.abs(),
    "pow of two int": lambda i: 2 ** i.abs(),
    "float_power": lambda x: torch.float_power(x, 2),
    "add int float": lambda x, i: x + i,
    "mul float bool": lambda x, b: x * b,
    "mul bool float left": lambda x, b: b * x,
    "sub int float": lambda x, i: i - x,
    "add bool int": lambda b, i: b + i,
    "add bool bool": lambda b, c: b + c,
    "mul bool bool": lambda b, c: b * c,
    "mul int scalar float": lambda i: i * 0.5,
    "add int scalar float": lambda i: i + 0.5,
    "sub int scalar float left": lambda i: 0.5 - i,
    "mul bool scalar": lambda b: b * 2,
    "mul bool scalar float": lambda b: b * 2.5,
    "add bool scalar": lambda b: b + 1,
    "sub scalar bool": lambda b: 1 - b.int(),
    "div bool": lambda b: b / 2,
    "add scalar true": lambda x: x + True,
    "add int8 int32": lambda i: i.to(torch.int8) + i.int(),
    "add uint8 int8": lambda u, i: u + i.to(torch.int8),
    "mul uint8 wraps": lambda u: u * 3,
    "add uint8 scalar wraps": lambda u: u + 250,
    "add float64": lambda x: x.double() + x,
    "mul half": lambda x: x.half() * 2.0,
    "scalar tensor int": lambda x: x + torch.tensor(3),
    "scalar tensor double": lambda x: x * torch.tensor(0.1, dtype=torch.float64),
    "int by scalar tensor": lambda i: i * torch.tensor(2.5),
    "int8 scalar tensor int64": lambda i: i.to(torch.int8) * torch.tensor(3),
    "broadcast rows": lambda x: x + x[:, :1],
    "broadcast row": lambda x: x * x[:, :, :, :1],
    "broadcast vector": lambda x, v: x[:, :, 0, 0][:, :8] * v[:, :8],
    "broadcast rank": lambda x: x + torch.arange(5.0),
    "broadcast weights": lambda x: x * torch.arange(8.0).view(8, 1, 1),
    "broadcast both": lambda v: v[:, :, None] * v[:, None, :],
    "maximum scalar tensor": lambda x: torch.maximum(x, torch.tensor(0.25)),
    "maximum int float": lambda x, i: torch.maximum(x, i),
    "minimum int": lambda i, j: torch.minimum(i, j),
    "fmax int": lambda i, j: torch.fmax(i, j),
    "bitwise_and int": lambda i, j: i & j,
    "bitwise_or int": lambda i, j: i | j,
    "bitwise_xor int": lambda i, j: i ^ j,
    "bitwise_and bool": lambda b, c: b & c,
    "bitwise_or bool": lambda b, c: b | c,
    "bitwise_xor bool": lambda b, c: b ^ c,
    "bitwise_and scalar": lambda i: i & 3,
    "bitwise_or scalar": lambda i: i | 4,
    "bitwise_xor scalar": lambda i: i ^ 1,
    "shift left": lambda i: i << 2,
    "shift right": lambda i: i >> 1,
    "shift right far": lambda i: (i.to(torch.int32) * 100003) >> 12,
    "shift right to the sign": lambda i: (i.to(torch.int16) * 1009) >> 15,
    "shift left out": lambda i: (i.to(torch.int32) << 29) >> 3,
    "shift long": lambda i: ((i.to(torch.int64) << 40) >> 37).to(torch.float32),
    "shift bytes": lambda u: (u << 7) >> 6,
    "shift too far": lambda i: i.to(torch.int16) >> 16,
    "logical_and float int": lambda x, i: torch.logical_and(x, i),
    "logical_xor bool": lambda b, c: torch.logical_xor(b, c),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp tensor": lambda x, y: torch.lerp(x, y, y),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y, value=0.5),
    "negative zero sum": lambda x: (x * 0.0) + (-0.0),
    "sign of negative zero": lambda x: torch.copysign(torch.ones_like(x), x * 0.0),
    "division by zero": lambda x: x / (x * 0.0),
    "copysign scalar": lambda x: torch.copysign(x, -1.0),
    "copysign int": lambda i: torch.copysign(i, -1.0),
    "heaviside one": lambda x: torch.heaviside(x, torch.tensor(1.0)),
    "ldexp": lambda x: torch.ldexp(x, torch.tensor(3)),
}

COMPARISONS: dict[str, Function] = {
    "eq scalar": lambda x: x == 0,
    "ne scalar": lambda x: x != 0,
    "lt scalar": lambda x: x < 0.5,
    "le scalar": lambda x: x <= 0.5,
    "gt scalar": lambda x: x > 0.5,
    "ge scalar": lambda x: x >= 0.5,
    "gt scalar left": lambda x: 0.5 > x,
    "lt int by float": lambda i: i < 0.5,
    "ge int by float": lambda i: i >= -0.5,
    "eq int by float": lambda i: i == 1.5,
    "eq int": lambda i, j: i == j,
    "lt int float": lambda x, i: x < i,
    "gt bool": lambda b, c: b > c,
    "eq bool": lambda b, c: b == c,
    "gt uint8": lambda u: u > 127,
    "gt uint8 by negative": lambda u: u > -1,
    "lt bool scalar": lambda b: b < 1,
    "where": lambda x, y, b: torch.where(b, x, y),
    "where scalars": lambda x: torch.where(x > 0, 1.0, -1.0),
    "where scalar left": lambda x, b: torch.where(b, 1.0, x),
    "where scalar right": lambda x, b: torch.where(b, x, 0.0),
    "where int scalar": lambda x, b: torch.where(b, x, 1),
    "where mixed": lambda x, i, b: torch.where(b, x, i),
    "where int scalars": lambda x: torch.where(x > 0, 1, -1),
    "where tensors": lambda x: torch.where(x > 0, torch.tensor(1.0), torch.tensor(-1.0)),
    "where likes": lambda x: torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x)),
    "where full_like": lambda x: torch.where(
        x >= 0, torch.full_like(x, 1.0), torch.full_like(x, -1.0)
    ),
    "where broadcast": lambda x, b: torch.where(b[:, :1], x, x[:, :, :1]),
    "where nan": lambda x: torch.where(x.eq(x), x, torch.zeros_like(x)),
    "masked_fill": lambda x, b: x.masked_fill(b, -1.0),
    "masked_fill inf": lambda x, b: x.masked_fill(b, float("-inf")),
    "masked_fill int": lambda i, b: i.masked_fill(b, 7),
    "masked_fill tensor": lambda x, b: x.masked_fill(b, torch.tensor(0.5)),
    "masked_fill broadcast": lambda x, b: x.masked_fill(b[:, :1], 2.0),
    "masked_fill new_ones": lambda x: x.new_ones(x.shape).masked_fill(x < 0, -1.0),
    "masked_fill_": _filled_in_place,
    "index assignment": _assigned,
    "values under masks": _moved_under_masks,
    "rows under a mask": _rows_under_a_mask,
    "counted under a mask": _counted_under_a_mask,
    "index_put mask tensor": lambda x, b: torch.index_put(x, (b,), torch.tensor(0.25)),
    "clamp": lambda x: x.clamp(-0.5, 1.0),
    "clamp min": lambda x: x.clamp(min=-0.5),
    "clamp max": lambda x: x.clamp(max=0.5),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "clamp crossed": lambda x: x.clamp(1.0, -1.0),
    "clamp tensors": lambda x, y: x.clamp(y, y + 1),
    "clamp tensor min": lambda x, y: x.clamp(min=y),
    "clamp tensor max": lambda x, y: x.clamp(max=y),
    "clamp broadcast": lambda x: x.clamp(-x[:, :1].abs(), x[:, :, :1].abs()),
    "clamp parameters": lambda x: x.clamp(torch.full((8, 1, 1), -0.5), torch.full((8, 1, 1), 0.5)),
    "sign times": lambda x: torch.sign(x) * 0.5 + 0.5,
    "straight through": lambda x: torch.sign(x).detach() - x.clamp(-1, 1).detach() + x.clamp(-1, 1),
    "threshold": lambda x: F.threshold(x, 0.1, -20.0),
}

CONVERSIONS: dict[str, Function] = {
    f"{name} to {to}": _converted(name, getattr(torch, to))
    for name in "xibu"
    for to in "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 bool".split()
    if not (name == "x" and to in ("uint8", "int8"))
} | {
    "type_as": lambda x: (x > 0).type_as(x) * 2 - 1,
    "to dtype": lambda x: 2 * x.ge(0).to(x.dtype) - 1,
    "int round trip": lambda x: ((x >= 0).int() * 2 - 1).float(),
    "half round trip": lambda x: torch.sign(x).half().float(),
    "half sum": lambda x: (x.half() + 1).float(),
    "bfloat16 product": lambda x: (x.bfloat16() * 1.5).float(),
    "to bool": lambda x: x.bool(),
    "uint8 as float": lambda u: u.float() / 255,
    "float of uint8": lambda u: (u.float() - 127.5) * 0.01,
    "to uint8": lambda x: (x.clamp(0, 1) * 255).to(torch.uint8),
    "to int8": lambda x: (x.clamp(-1, 1) * 100).to(torch.int8),
    "new_zeros": lambda x: x.new_zeros(x.shape) + x,
    "new_full": lambda x: x.new_full(x.shape, 2.5) * x,
    "empty_like fill": lambda x: torch.empty_like(x).fill_(3.0) * x,
    "zeros_like int": lambda x: torch.zeros_like(x, dtype=torch.int64),
    "ones_like bool": lambda x: torch.ones_like(x, dtype=torch.bool),
    "full_like int": lambda i: torch.full_like(i, 3),
    "arange": lambda x: x + torch.arange(5),
    "arange step": lambda x: x * torch.arange(0, 10, 2),
    "linspace": lambda x: x * torch.linspace(-1, 1, 5),
    "eye": lambda v: v @ torch.eye(16),
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]),
    "clone": lambda x: x.clone() + 1,
    "detach": lambda x: x.detach() * 2,
    "contiguous": lambda x: x.permute(0, 2, 3, 1).contiguous() + 1,
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
}
