"""Whether the images of a batch are apart: each gives what it gives alone, whatever lies beside it.

Two things are tried with random images, and every seed must pass both.

- **Neighbours.** The same batch with other images in some places gives the same bits in the others:
  sizes are the same, and so is the order of every sum. A range, a mean or a maximum over the batch
  is seen here, even where a threshold hides it from most images.
- **Sizes.** A batch gives what its images give one by one. Another size may sum in another order,
  and a sign that turns round on that changes much behind it. Such an answer is excused where it is
  shown to be rounding: noise of that size in the results of layers changes the image's own answer
  as well. One seed at least must pass without an excuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.nearness import is_near
from tvm_insta.frontend.onnx.layer import OnnxLayer
from tvm_insta.frontend.onnx.module import OnnxModule, Watch, input_dtype

_IMAGES = {0: 4, 1: 2, 2: 2}
"""Images at once by seed; files that were written for more take twice their own batch."""
_NEIGHBOURS = {0: (0.0, 0.0), 1: (100.0, -100.0), 2: (-100.0, 100.0)}
"""By seed, the ends of the numbers that are put beside even and odd images, 0 for those of other
images: what is taken over the batch changes with them in either direction."""
_TOLERANCE = 1e-3
"""Of the largest output: sums in another order, through layers that enlarge the difference."""
_NOISE = 1e-6
"""Of a layer's largest result: what a sum of some thousand float32 numbers is rounded by."""
_TRIALS = 8


def images_are_apart(module: OnnxModule, exact: Sequence[Sequence[int]], own: int) -> bool:
    """Whether the answers of a batch are those of its images.

    Args:
        module: the network, which can be run with any batch.
        exact: shapes of the inputs, batch first.
        own: batch that the file was written for.
    """
    try:
        return _all_seeds(module, exact, own, 256)
    except ImportModelError:  # whole numbers may be indices, which a table of its own size limits
        return _all_seeds(module, exact, own, 2)


def _all_seeds(module: OnnxModule, exact: Sequence[Sequence[int]], own: int, whole: int) -> bool:
    excused = []
    for seed, count in _IMAGES.items():
        generator = torch.Generator().manual_seed(seed)
        images = count if own == 1 else max(count, 2 * own)
        inputs = _random(module, exact, images, generator, whole)
        with torch.no_grad():
            together = explained_run(module, inputs)
            others = [
                _beside(_random(module, exact, images, generator, whole), end)
                for end in _NEIGHBOURS[seed]
            ]
            if not _unmoved(module, inputs, together, others):
                return False
            found = [
                _one_by_one(
                    module, [x[i : i + 1] for x in inputs], [y[i : i + 1] for y in together]
                )
                for i in range(images)
            ]
        if None in found:
            return False
        excused.append(any(found))
    return not all(excused)


def _random(
    module: OnnxModule,
    exact: Sequence[Sequence[int]],
    images: int,
    generator: torch.Generator,
    whole: int,
) -> list[Tensor]:
    """Images of floats, or of whole numbers below ``whole``.

    Each image has a range of its own, -2..2 and others: among images of the same kind, a maximum
    above 0 over the batch is the one over each image.
    """
    found = []
    for shape, each in zip(exact, module.graph.inputs, strict=True):
        size, dtype = (images, *shape[1:]), input_dtype(each)
        if not dtype.is_floating_point:
            found.append(torch.randint(0, whole, size, generator=generator).to(dtype))
            continue
        x = torch.rand(size, generator=generator).mul(4).sub(2)
        for i in range(images):
            width, middle = _RANGES[int(torch.randint(0, len(_RANGES), (), generator=generator))]
            x[i] = x[i] * width + middle
        found.append(x)
    return found


_RANGES = ((1.0, 0.0), (1.0, 0.0), (0.25, 1.0), (0.25, -1.0), (4.0, 0.0))
"""How an image is stretched and moved."""


def _beside(images: Sequence[Tensor], end: float) -> list[Tensor]:
    """Images between 0 and ``end``; as they are where it is 0, or where they are no floats."""
    found = []
    for x in images:
        moves = bool(end) and x.is_floating_point() and x.numel() > 0
        found.append(x.abs() * (end / x.abs().max()) if moves else x)
    return found


def _unmoved(
    module: OnnxModule,
    inputs: Sequence[Tensor],
    together: Sequence[Tensor],
    others: Sequence[Sequence[Tensor]],
) -> bool:
    """Whether images keep their answers, bit by bit, where every other one becomes another."""
    for first, neighbours in enumerate(others):
        kept = slice(first, None, 2)
        mixed = [x.clone() for x in neighbours]
        for x, mine in zip(mixed, inputs, strict=True):
            x[kept] = mine[kept]
        for a, b in zip(explained_run(module, mixed), together, strict=True):
            if a.shape != b.shape or not torch.equal(_bits(a[kept]), _bits(b[kept])):
                return False
    return True


def _bits(x: Tensor) -> Tensor:
    """Floats as something that is equal to itself where it is no number, too."""
    return torch.nan_to_num(x, nan=1.2345e-30) if x.is_floating_point() else x


def _one_by_one(
    module: OnnxModule, image: Sequence[Tensor], answer: Sequence[Tensor]
) -> bool | None:
    """Whether an image's answer in a batch needs an excuse; None if it has none."""
    alone = explained_run(module, image)
    if _near(answer, alone):
        return False
    if any(a.shape != b.shape for a, b in zip(answer, alone, strict=True)):
        return None
    for trial in range(_TRIALS):
        with _noise(module, trial):
            if not _near(explained_run(module, image), alone):
                return True
    return None


def _near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(is_near(a, b, _TOLERANCE) for a, b in zip(found, expected, strict=True))


@contextmanager
def _noise(module: OnnxModule, seed: int) -> Iterator[None]:
    """Layers round otherwise meanwhile; sums of whole numbers are exact, and stay."""
    generator = torch.Generator().manual_seed(seed)

    def round_otherwise(_: object, __: object, result: object) -> object:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if not result.numel() or bool((result == result.round()).all()):
            return result
        noise = torch.randn(result.shape, generator=generator)
        return result + noise * (_NOISE * result.abs().max())

    handles = [
        layer.register_forward_hook(round_otherwise)
        for layer in module.modules()
        if isinstance(layer, OnnxLayer)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def explained_run(
    module: OnnxModule, inputs: Sequence[Tensor], watch: Watch = lambda *_: None
) -> list[Tensor]:
    """Run, and name the node in which something goes wrong.

    Raises:
        ImportModelError: the network cannot be run.
    """
    try:
        result = module.run(inputs, watch)
    except ImportModelError:
        raise
    except Exception as error:
        raise ImportModelError(f"the network cannot be run ({error})") from error
    return list(result) if isinstance(result, tuple) else [result]
