"""float32 as integers of the same order, and a search over them.

It finds the smallest float32 at which a monotone function reaches a value: exactly, whatever
arithmetic the function is made of. As bisection does, but a call of the function tells of many
numbers at once: the function is a chain of PyTorch's operators, whose calls are what takes time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Function = Callable[[torch.Tensor], torch.Tensor]

LARGEST = torch.finfo(torch.float32).max
_PROBES, _ELEMENTS = 1023, 1 << 16  # of one call at most


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
        function: float32 of some shape -> the same shape; each element on its own. The leading
            dimension may be longer than that of the ends.
        value: what is to be reached: at least it if ``rising``, else at most it.
        low: lower ends, float32, ``[1, ...]``.
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
    count = max(3, min(_PROBES, _ELEMENTS // below.numel()))
    part = torch.arange(1, count + 1).reshape(-1, *[1] * (below.dim() - 1))
    while bool((above - below > 1).any()):
        inside = below + torch.div((above - below) * part, count + 1, rounding_mode="floor")
        # The ends first and last, so that the neighbours of the first hit are the new ends.
        probes = torch.cat([below, torch.maximum(inside, below + 1), above])
        hits = torch.cat([torch.zeros_like(never), reached(probes[1:-1]), torch.ones_like(never)])
        first = hits.to(torch.int8).argmax(dim=0, keepdim=True)
        below, above = probes.gather(0, first - 1), probes.gather(0, first)
    return torch.where(never, torch.inf, from_order(above))
