"""Level tensors by the names of the exported graph, for the validator of an artefact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One level tensor that a kernel packs: ``base + step * code``.

    Names are those of nodes in `export_graph`'s graph.

    Attributes:
        compared: the tensor that the kernel compares; None where it is not in that graph.
        roots: the tensors from which the levels are computed.
        result: the level tensor.
        base: the value of code 0.
        step: from one value to the next, above 0.
        axes: codes in the kernel's layout are transposed by these axes and then have the shape of
            ``result``.
        every: for each dimension of ``result``, the distance of its elements in what is packed, as
            a transposed convolution with a stride puts zeros between them; () where it is 1.
    """

    compared: str | None
    roots: tuple[str, ...]
    result: str
    base: float
    step: float
    axes: tuple[int, ...]
    every: tuple[int, ...] = ()
