"""What `benchmarks.arm` reports, and what is known of others."""

from __future__ import annotations

from dataclasses import dataclass

LARQ_INSTRUCTIONS = 3.47
"""Per 128 multiply-accumulates, in Larq Compute Engine's aarch64 loop (8 x 4 x 4)."""

LARQ_CYCLES = {"cortex-a53": 4.2, "cortex-a55": 3.7, "cortex-a72": 1.5}
"""The same loop in llvm-mca 19."""


@dataclass(frozen=True)
class Row:
    """One layer on one core; everything but the names is per 128 binary multiply-accumulates.

    Attributes:
        core: name of the core.
        layer: shape of the layer.
        bare: instructions of a whole call, packed words in and int32 out.
        fused: instructions of a whole call with the epilogue of a block.
        loop: instructions of the inner loop.
        cycles: modelled cycles of the inner loop, None if llvm-mca does not know the core.
        larq: modelled cycles of Larq's loop, None if not known.
    """

    core: str
    layer: str
    bare: float
    fused: float
    loop: float
    cycles: float | None
    larq: float | None


@dataclass(frozen=True)
class Model:
    """One whole network on one core.

    Attributes:
        core: name of the core.
        network: what ran.
        instructions: of one image of 224x224.
    """

    core: str
    network: str
    instructions: float
