"""The moving window of convolutions and pools: strides, dilations and pads of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.limits import SPAN

AutoPad = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]


@dataclass(frozen=True)
class Window:
    """One entry per image dimension.

    Attributes:
        kernel: size.
        strides: steps.
        dilations: distance of the kernel's elements.
        before: padding in front.
        after: padding behind.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def flat(self) -> list[int]:
        """The padding as `torch.nn.functional.pad` takes it: last dimension first."""
        pairs = list(zip(self.before, self.after, strict=True))
        return [pad for pair in reversed(pairs) for pad in pair]

    def extent(self, i: int) -> int:
        """What one position of the kernel covers in dimension ``i``."""
        return (self.kernel[i] - 1) * self.dilations[i] + 1


def window(
    image: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    auto_pad: str,
) -> Window:
    """Check the attributes, and compute the pads where the file leaves that to the reader.

    Raises:
        ImportModelError: a number is missing, not positive or absurd, or the image is too small.
    """
    rank = len(image)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    given = bool(pads)
    pads = pads or (0,) * (2 * rank)
    for name, values, count, least in (
        ("kernel_shape", kernel, rank, 1),
        ("strides", strides, rank, 1),
        ("dilations", dilations, rank, 1),
        ("pads", pads, 2 * rank, 0),
    ):
        if len(values) != count or not all(least <= value <= SPAN for value in values):
            raise ImportModelError(
                f"{name} is {list(values)[:12]}, but {count} numbers of {least} to {SPAN} are "
                f"needed for {rank} image dimensions"
            )
    if auto_pad != "NOTSET" and given and any(pads):
        raise ImportModelError(f"both pads and auto_pad {auto_pad} are given: leave one out")
    before, after = list(pads[:rank]), list(pads[rank:])
    for i in range(rank):
        extent = (kernel[i] - 1) * dilations[i] + 1
        if auto_pad.startswith("SAME"):
            size = -(-image[i] // strides[i])
            total = max((size - 1) * strides[i] + extent - image[i], 0)
            small = total // 2
            upper = auto_pad == "SAME_UPPER"
            before[i], after[i] = (small, total - small) if upper else (total - small, small)
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after))
