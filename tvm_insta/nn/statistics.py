"""Per-instance statistics of an activation, from which INSTA thresholds are computed.

The paper computes its thresholds from E[X^3], which combines mean, variance and skewness:
`E[X^3] = mu^3 + 3 mu sigma^2 + skew sigma^3`. The others are there for the ablation.

"third_over_second" is E[X^3] / E[X^2] (*reconstructed*). It grows with X, where E[X^3] grows with
the third power: an image whose activations are three times as large as usual moves a threshold by
27 times as much, and INSTA-PReLU adds that to the activations that the next layer sees. In a deep
network trained at a high learning rate this becomes infinite; the quotient cannot.
"""

from __future__ import annotations

from typing import Any

import torch

from tvm_insta.nn.messages import unknown

STATISTICS = ("mean", "variance", "third_central", "third_moment", "third_over_second")
DEFAULT_STATISTIC = "third_moment"

# Of E[X^2], so that a channel of zeros has the quotient 0.
_SMALLEST_SQUARE = 1e-5


def check_statistic(name: str) -> str:
    """Return `name`, or raise `ModelError` if no such statistic exists.

    Args:
        name: One of `STATISTICS`.
    """
    if name not in STATISTICS:
        raise unknown("statistic", name, STATISTICS)
    return name


class _ThirdMoment(torch.autograd.Function):
    """E[X^3], with its gradient `3 x^2 / (H W)` written out: one loop where autograd takes five."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x * x * x).mean(dim=(2, 3))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor
        (x,) = ctx.saved_tensors
        return x * x * per_instance(grads[0] * (3.0 / (x.shape[2] * x.shape[3])))


class _ThirdOverSecond(torch.autograd.Function):
    """`m = E[X^3] / s`, `s = E[X^2] + 1e-5`; its gradient is `(3 x^2 - 2 m x) / (s H W)`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        square = (x * x).mean(dim=(2, 3)) + _SMALLEST_SQUARE
        result = (x * x * x).mean(dim=(2, 3)) / square
        # The reciprocal, not s: compiled code would divide by s for each element of x.
        ctx.save_for_backward(x, result, square.reciprocal())
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        tensors: tuple[torch.Tensor, ...] = ctx.saved_tensors
        x, result, reciprocal = tensors
        scaled = grads[0] * reciprocal * (1.0 / (x.shape[2] * x.shape[3]))
        return x * (x * per_instance(3.0 * scaled) - per_instance(2.0 * scaled * result))


_WITH_GRADIENT = {"third_moment": _ThirdMoment, "third_over_second": _ThirdOverSecond}


def measure(
    x: torch.Tensor, statistic: str = DEFAULT_STATISTIC, *, training: bool = False
) -> torch.Tensor:
    """Measure one statistic of every channel of every image.

    Products are written out (`x * x * x`, not `pow`): the exported graph then says in which order
    the two roundings happen.

    Args:
        x: `[N, C, H, W]` float.
        statistic: "mean", "variance" (population), "third_central" (E[(X - mu)^3]) or
            "third_moment" (E[X^3]) or "third_over_second" (E[X^3] / (E[X^2] + 1e-5)).
        training: True takes gradients that are written out, which are faster; the values and,
            but for rounding, the gradients are the same.

    Returns:
        `[N, C]` of x's dtype.

    Raises:
        ModelError: The statistic is unknown.
    """
    check_statistic(statistic)
    if training and statistic in _WITH_GRADIENT:
        written: torch.Tensor = _WITH_GRADIENT[statistic].apply(x)  # type: ignore[no-untyped-call]
        return written
    if statistic == "third_moment":
        return (x * x * x).mean(dim=(2, 3))
    if statistic == "third_over_second":
        return (x * x * x).mean(dim=(2, 3)) / ((x * x).mean(dim=(2, 3)) + _SMALLEST_SQUARE)
    if statistic == "mean":
        return x.mean(dim=(2, 3))
    # Centred before the product: the difference of raw moments would cancel where |mu| >> sigma.
    centred = x - x.mean(dim=(2, 3), keepdim=True)
    if statistic == "variance":
        return (centred * centred).mean(dim=(2, 3))
    return (centred * centred * centred).mean(dim=(2, 3))


def per_instance(values: torch.Tensor) -> torch.Tensor:
    """Lay `[N, C]` out so that it broadcasts against `[N, C, H, W]`.

    Args:
        values: `[N, C]`.

    Returns:
        `[N, C, 1, 1]`, a view.
    """
    return values.unsqueeze(-1).unsqueeze(-1)


def per_channel(values: torch.Tensor, rank: int) -> torch.Tensor:
    """Lay `[C]` out so that it broadcasts against `[N, C]` or `[N, C, H, W]`.

    Args:
        values: `[C]`.
        rank: Rank of the other operand, 2 or 4.

    Returns:
        `[1, C]` or `[1, C, 1, 1]`, a view.
    """
    return values.view([1, -1] + [1] * (rank - 2))
