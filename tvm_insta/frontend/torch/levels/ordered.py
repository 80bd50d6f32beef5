"""float32 as integers of the same order, and bisection over them.

Bisection over the integers finds the smallest float32 at which a monotone function reaches a value:
exactly, whatever arithmetic the function is made of.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Function = Callable[[torch.Tensor], torch.Tensor]

LARGEST = torch.finfo(torch.float32).max


def to_order(x: torch.Tensor) -> torch.Tensor:
    """Map float32 numbers to int64 numbers of the same order; -0.0 and 0.0 are both 0."""
    bits = x.view(torch.int32).to(torch.int64)
    return torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def from_order(order: torch.Tensor) -> torch.Tensor:
    """Invert `to_order`; 0 becomes 0.0."""
    bits = torch.where(order >= 0, order, (-order) | -0x80000000)
    return bits.to(torch.int32).view(torch.float32)


def distinct(x: torch.Tensor) -> torch.Tensor:
    """The numbers that occur in a tensor, ascending, ``[K]``."""
    found = torch.unique(x)
    assert isinstance(found, torch.Tensor)
    return found


def first_reaching(
    function: Function, value: float, low: torch.Tensor, high: torch.Tensor, *, rising: bool
) -> torch.Tensor:
    """Find the smallest float32 in ``low..high`` at which a monotone function reaches ``value``.

    Args:
        function: float32 of some shape -> the same shape; each element on its own.
        value: what is to be reached: at least it if ``rising``, else at most it.
        low: lower ends, float32.
        high: upper ends, float32, same shape.
        rising: whether the function increases.

    Returns:
        Same shape; +inf where the function does not reach the value.
    """

    def reached(order: torch.Tensor) -> torch.Tensor:
        found = function(from_order(order))
        return found >= value if rising else found <= value

    below, above = to_order(low) - 1, to_order(high)  # below: not reached yet
    never = ~reached(above)
    while bool((above - below > 1).any()):
        middle = torch.div(below + above, 2, rounding_mode="floor")
        hit = reached(middle)
        open_ = above - below > 1
        above = torch.where(open_ & hit, middle, above)
        below = torch.where(open_ & ~hit, middle, below)
    return torch.where(never, torch.inf, from_order(above))
