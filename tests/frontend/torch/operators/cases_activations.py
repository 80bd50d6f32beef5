"""Activations with their attributes."""

# ruff: noqa: PLW0108 (a case's parameters name its inputs)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    name: (lambda x, name=name: getattr(F, name)(x))
    for name in (
        "relu relu6 elu selu celu leaky_relu gelu silu mish hardtanh hardswish hardsigmoid "
        "logsigmoid softplus softsign softshrink hardshrink tanhshrink tanh sigmoid rrelu"
    ).split()
} | {
    "elu alpha": lambda x: F.elu(x, 0.3),
    "elu alpha negative": lambda x: F.elu(x, -0.5),
    "celu alpha": lambda x: F.celu(x, 0.3),
    "leaky_relu slope": lambda x: F.leaky_relu(x, 0.25),
    "leaky_relu slope negative": lambda x: F.leaky_relu(x, -0.25),
    "leaky_relu slope above one": lambda x: F.leaky_relu(x, 1.5),
    "leaky_relu int slope": lambda x: F.leaky_relu(x, 0),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardtanh bounds": lambda x: F.hardtanh(x, -0.25, 2.0),
    "hardtanh int bounds": lambda x: F.hardtanh(x, 0, 1),
    "softplus beta": lambda x: F.softplus(x, 3.0),
    "softplus threshold": lambda x: F.softplus(x, 1.0, 1.5),
    "softplus beta and threshold": lambda x: F.softplus(x * 20, 2.0, 5.0),
    "softplus large": lambda x: F.softplus(x * 50),
    "softshrink lambda": lambda x: F.softshrink(x, 0.1),
    "hardshrink lambda": lambda x: F.hardshrink(x, 0.1),
    "rrelu bounds": lambda x: F.rrelu(x, 0.1, 0.3, training=False),
    "threshold": lambda x: F.threshold(x, 0.2, -7.0),
    "prelu one": lambda x: F.prelu(x, torch.tensor([0.3])),
    "prelu channels": lambda x: F.prelu(x, torch.linspace(-0.5, 1.5, 8)),
    "prelu vector": lambda v: F.prelu(v, torch.linspace(-0.5, 1.5, 16)),
    "prelu tokens": lambda t: F.prelu(t, torch.linspace(-0.5, 1.5, 5)),
    "prelu sequence": lambda s: F.prelu(s, torch.linspace(-0.5, 1.5, 8)),
    "prelu volume": lambda d: F.prelu(d, torch.linspace(-0.5, 1.5, 4)),
    "glu": lambda x: F.glu(x, 1),
    "glu last": lambda v: F.glu(v),
    "softmax": lambda x: F.softmax(x, 1),
    "softmax last": lambda x: F.softmax(x, -1),
    "softmax vector": lambda v: F.softmax(v, 1),
    "softmax float64": lambda x: F.softmax(x, 1, dtype=torch.float64),
    "softmax int": lambda i: F.softmax(i, 1, dtype=torch.float32),
    "softmin": lambda x: F.softmin(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "log_softmax last": lambda v: F.log_softmax(v, -1),
    "log_softmax large": lambda v: F.log_softmax(v * 100, -1),
    "softmax2d": lambda x: torch.nn.Softmax2d()(x),
    "logsigmoid large": lambda x: F.logsigmoid(x * 60),
    "sigmoid large": lambda x: torch.sigmoid(x * 60),
    "tanh large": lambda x: torch.tanh(x * 60),
    "tanh small": lambda x: torch.tanh(x * 1e-4),
    "expm1 small": lambda x: torch.expm1(x * 1e-5),
    "log1p small": lambda x: torch.log1p(x * 1e-5),
    "elu small": lambda x: F.elu(x * 1e-5),
    "gelu large": lambda x: F.gelu(x * 10),
    "erf large": lambda x: torch.erf(x * 3),
    "sinh small": lambda x: torch.sinh(x * 1e-4),
    "asinh large": lambda x: torch.asinh(x * 1e4),
    "atanh small": lambda x: torch.atanh(x * 1e-5),
    "asinh small": lambda x: torch.asinh(x * 1e-5),
    "normalize": lambda v: F.normalize(v),
    "normalize channels": lambda x: F.normalize(x, dim=1),
    "cosine_similarity": lambda v, w: F.cosine_similarity(v, w),
    "pairwise_distance": lambda v, w: F.pairwise_distance(v, w),
}
