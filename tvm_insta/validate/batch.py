"""Whether PyTorch treats the images of a batch one by one, as an artefact does.

An artefact runs any batch as independent images, and its output's first dimension is the batch.
PyTorch promises neither: ``squeeze()`` and ``flatten()`` lose the batch, a mean over it mixes the
images. PyTorch itself is asked, on three images of which two are exchanged: by others of the same
kind, and by some that are far larger or smaller, which move whatever is the range of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import check_parts, unchanged
from tvm_insta.validate import eager
from tvm_insta.validate.calls import check_calls

_IMAGES = 3
_FAR = 100.0
"""How far the numbers of the neighbours lie from 0, on one side and on the other."""
_MIXED = 1e-4
"""Relative to the largest output. A batch of one size runs the same kernels, so that an image's
output keeps every bit; where it depends on the other images, it moves by far more than this."""


def check_batch(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, max_batch: int, form: str
) -> bool:
    """Run the module on one image, again and again, and on three where the artefact takes as many.

    Args:
        module: the network; it is left as it was.
        example_inputs: one tensor per input, batch first; their first image is used.
        max_batch: of the artefact.
        form: "vm" or "c"; the latter runs image after image.

    Returns:
        Whether an image kept every bit of its output while the other two changed. False, too, where
        the artefact takes fewer than three.

    Raises:
        ImportModelError: the answer changes from call to call, see `check_calls`; the first
            dimension of the output is not the batch; the images influence each other and the form
            cannot do that; the network fails on one image or on three, or one of its parts is
            refused by `check_parts`.
    """
    check_parts(module)
    first = [tensor[:1] for tensor in example_inputs]
    one = check_calls(module, first, [_others(own, 3)[0] for own in first], _call)
    for output in one:
        _expect_batch(output, 1)
    count = min(_IMAGES, max_batch)
    if count < 2:
        return False
    # The example may be all zeros, which hides what scales it: another image is tried as well.
    other = [_others(own, 3)[0] for own in first]
    moved = max(
        _moved(module, one, [[torch.cat(each)[:count] for each in batch] for batch in pair])
        for pair in (
            [[(own, *_others(own, seed)) for own in first] for seed in (1, 2)],
            [[(own, *_far(own, end)) for own in other] for end in (_FAR, -_FAR)],
        )
    )
    if form == "c" and moved > _MIXED:
        raise ImportModelError(
            f"the images of a batch influence each other in {type(module).__name__} (a mean over "
            "the batch, or batch norm without running statistics), but the plain-C form runs one "
            "image after another: leave the batch out of it, use runtime vm, or max_batch=1"
        )
    return moved == 0.0 and count == _IMAGES


def _moved(
    module: nn.Module, one: Sequence[torch.Tensor], batches: Sequence[Sequence[torch.Tensor]]
) -> float:
    """How far the first image's outputs differ between two batches, relative to the largest.

    Args:
        module: the network.
        one: its outputs for one image.
        batches: two, each one tensor per input.
    """
    runs = []
    for batch in batches:
        with unchanged(module):
            runs.append(_call(module, batch))
    count, moved = len(batches[0][0]), 0.0
    for alone, a, b in zip(one, *runs, strict=True):
        _expect_batch(a, count)
        if tuple(alone.shape[1:]) != tuple(a.shape[1:]):
            raise ImportModelError(
                f"the output for one image has the shape {list(alone.shape)}, for {count} "
                f"{list(a.shape)}, but all but the first dimension must stay: name the dimensions "
                "in squeeze(), flatten(), view() and means"
            )
        moved = max(moved, eager.relative(a[:1].double(), b[:1].double()))
    return moved


def _others(own: torch.Tensor, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if own.is_floating_point():
        return [torch.randn(own.shape, generator=generator).to(own.dtype) for _ in range(2)]
    high = integers_below(own)
    return [torch.randint(0, high, own.shape, generator=generator).to(own.dtype) for _ in range(2)]


def _far(own: torch.Tensor, end: float) -> list[torch.Tensor]:
    """Images as `_others`, floats between 0 and about ``end``."""
    found = _others(own, 1 if end > 0 else 2)
    return [x.abs() * end if x.is_floating_point() else x for x in found]


def integers_below(example: torch.Tensor) -> int:
    """The number below which random integers like those of an example are drawn."""
    if example.dtype in (torch.uint8, torch.bool):
        return 256 if example.dtype == torch.uint8 else 2
    return max(int(example.max()), 0) + 1  # indices of a table may have no other range


def _call(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    try:
        found = eager.call(module, inputs)
    except ImportModelError:
        raise
    except Exception as error:  # whatever the user's code raises
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        count = len(inputs[0])
        alone = "" if count == 1 else ", or compile with max_batch=1 what takes one image only"
        raise ImportModelError(
            f"{type(module).__name__} itself fails in PyTorch on a batch of {count} "
            f"({text}): mend it{alone}"
        ) from error
    if not found:
        raise ImportModelError(
            f"{type(module).__name__} returns no tensor, but one is needed: return the output"
        )
    return found


def _expect_batch(output: torch.Tensor, count: int) -> None:
    if output.ndim < 1 or output.shape[0] != count:
        raise ImportModelError(
            f"the output for {count} image{'s' if count > 1 else ''} has the shape "
            f"{list(output.shape)}, but its first dimension must be the batch: name the dimensions "
            "in squeeze(), flatten(), view(), transpositions and means, as in x.flatten(1)"
        )
