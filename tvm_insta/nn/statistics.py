"""Per-instance statistics of an activation, from which INSTA thresholds are computed.

The paper computes its thresholds from E[X^3], which combines mean, variance and skewness:
`E[X^3] = mu^3 + 3 mu sigma^2 + skew sigma^3`. The others are there for the ablation.

"third_over_second" is E[X^3] / E[X^2] (*reconstructed*). It grows with X, where E[X^3] grows with
the third power: an image whose activations are three times as large as usual moves a threshold by
27 times as much, and INSTA-PReLU adds that to the activations that the next layer sees. In a deep
network trained at a high learning rate this becomes infinite; the quotient cannot.
"""

from __future__ import annotations

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


def measure(x: torch.Tensor, statistic: str = DEFAULT_STATISTIC) -> torch.Tensor:
    """Measure one statistic of every channel of every image.

    Products are written out (`x * x * x`, not `pow`): the exported graph then says in which order
    the two roundings happen.

    Args:
        x: `[N, C, H, W]` float.
        statistic: "mean", "variance" (population), "third_central" (E[(X - mu)^3]) or
            "third_moment" (E[X^3]) or "third_over_second" (E[X^3] / (E[X^2] + 1e-5)).

    Returns:
        `[N, C]` of x's dtype.

    Raises:
        ModelError: The statistic is unknown.
    """
    check_statistic(statistic)
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
