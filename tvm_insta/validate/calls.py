"""Whether PyTorch itself gives an input the same answer at every call.

An artefact is a function of its input. A module may be none: it may read a counter, a running
average, its previous input, or random numbers. PyTorch's answer is that of the module as it is
given; a module whose later calls answer otherwise, because of what the earlier ones left in it, has
no one answer. What a module writes down and does not use (logs, counters, scales that are
initialised from the weights at the first call) changes no answer and does no harm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import Snapshot, unchanged
from tvm_insta.frontend.byte_input import NETWORK
from tvm_insta.validate import eager

_NAMED = 4
"""Changed attributes that the message names, at most."""

_ROUNDING = 1e-4
"""Relative to the largest number of an answer: sums in another order differ by less."""

_STILL, _TIMES = 1e-6, 16
"""An answer that differs by no more, in so many calls, is one: weights that forward centres about
their mean, each time anew, move by their own rounding."""

Answer = list[torch.Tensor]
Call = Callable[[nn.Module, Sequence[torch.Tensor]], Answer]


def check_calls(
    module: nn.Module,
    image: Sequence[torch.Tensor],
    other: Sequence[torch.Tensor],
    call: Call = eager.call,
) -> Answer:
    """Call the module with an image, another and twice the image again, and once afresh.

    Every image is compared with itself, bit by bit: the same kernels run on the same numbers. Where
    what forward changes moves an answer by rounding, many calls tell whether it stays with that.

    Args:
        module: the network; it is left as it was.
        image: one tensor per input, a batch of one.
        other: the same of other values; what the first image leaves behind must not change its
            answer either.
        call: calls the module.

    Returns:
        The answer to the image.

    Raises:
        ImportModelError: an answer differs; one sentence with what has changed in the module.
    """
    first, differs, changed = _answers(module, image, other, call)
    if not differs or (changed and differs <= _STILL and _stays(module, image, other, call)):
        return first
    name = type(module).__name__
    seeded = _SameNumbers(call)
    if not _answers(module, image, other, seeded)[1] and seeded.drawn:
        raise ImportModelError(
            f"{name} gives one input different answers because it draws random numbers: call "
            "eval(), pass training=False to dropout, or draw the numbers outside, as an input"
        )
    if not changed and differs <= _ROUNDING:
        raise ImportModelError(
            f"{name} gives one input answers that differ by rounding from call to call "
            f"({differs:.0e} of the largest number), though it changes nothing: some function of "
            "PyTorch adds up in another order each time, as torch.linalg.lstsq does; compute its "
            "result once, and keep it in a buffer"
        )
    if not changed:
        raise ImportModelError(
            f"{name} gives one input different answers from call to call because of something "
            "that it keeps outside of itself: let forward depend on its input and on parameters "
            "only"
        )
    named = ", ".join(each.removeprefix(f"{NETWORK}.") for each in changed[:_NAMED])
    more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    raise ImportModelError(
        f"{name} gives one input different answers from call to call because of what forward "
        f"changes ({named}{more}): take what changes as an input and return it, or, if it is an "
        "initialisation, call the module once with real data before compiling it"
    )


def _answers(
    module: nn.Module, image: Sequence[torch.Tensor], other: Sequence[torch.Tensor], call: Call
) -> tuple[Answer, float, tuple[str, ...]]:
    """The first answer, by how much later ones differ, and what the calls changed."""
    with unchanged(module):
        before = Snapshot(module)
        first = call(module, image)
        between = call(module, other)
        again = [call(module, image), call(module, image)]
        changed = before.changed()
    with unchanged(module):
        alone = call(module, other)
    pairs = [*((first, each) for each in again), (between, alone)]
    return first, max(_difference(one, another) for one, another in pairs), changed


def _stays(
    module: nn.Module, image: Sequence[torch.Tensor], other: Sequence[torch.Tensor], call: Call
) -> bool:
    """Whether many calls move the answer by no more than rounding."""
    with unchanged(module):
        first = call(module, image)
        for _ in range(_TIMES):
            call(module, other)
            if _difference(first, call(module, image)) > _STILL:
                return False
    return True


def _difference(one: Answer, another: Answer) -> float:
    """The largest, relative; infinite where the answers have other tensors."""
    if len(one) != len(another):
        return float("inf")
    return max((eager.relative(a, b) for a, b in zip(one, another, strict=True)), default=0.0)


class _SameNumbers:
    """Calls that all draw the same random numbers.

    Attributes:
        drawn: whether a call has drawn any.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self.drawn = False

    def __call__(self, module: nn.Module, inputs: Sequence[torch.Tensor]) -> Answer:
        own, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (the users' own)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            before = _generators()
            try:
                return self._call(module, inputs)
            finally:
                self.drawn = self.drawn or _generators() != before
                random.setstate(own)
                np.random.set_state(numpys)  # noqa: NPY002


def _generators() -> tuple[object, ...]:
    """The state of the generators that everyone shares."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), torch.get_rng_state().tolist(), kind, np.asarray(keys).tolist(), rest
