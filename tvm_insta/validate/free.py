"""Where PyTorch, running free, first decides a comparison otherwise than the artefact.

The replay gives PyTorch the artefact's values at every binarisation, so each step is judged by
itself. Running free, the rounding of all steps adds up, and may turn a bit that no single step
turns; whatever follows from that bit is no error. So the first binarisation whose levels differ is
judged as in the replay, with PyTorch's own activations: moving them by rounding must explain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tvm_insta.validate.graph import Graph, Values
from tvm_insta.validate.levels import explain
from tvm_insta.validate.replayed import Pack, compare, steps_apart


@dataclass(frozen=True)
class Parting:
    """The first binarisation whose levels differ.

    Attributes:
        pack: the binarisation.
        flips: how many comparisons PyTorch decides otherwise.
        elements: how many levels there are.
        unexplained: levels that rounding does not explain.
        distance: how far activations had to be moved to explain the others, in their rms.
    """

    pack: Pack
    flips: int
    elements: int
    unexplained: int
    distance: float


def first_parting(
    graph: Graph, values: Values, packed: Sequence[tuple[Pack, torch.Tensor]], limit: float
) -> Parting | None:
    """Find and judge the first binarisation whose levels differ.

    Args:
        graph: the reference.
        values: of every node, running free.
        packed: binarisations and the levels that the artefact packed, in the order of the graph.
        limit: how far activations may be moved, in units of their rms.

    Returns:
        None where all levels are the artefact's.
    """
    for each, levels in packed:
        compared = compare(graph, values, each, levels)
        if compared is None or not bool(compared.wrong.any()):
            continue
        nodes, roots, theirs = compared.nodes, compared.roots, compared.theirs
        held = torch.where(compared.wrong, levels, theirs)
        found = explain(graph, nodes, each.result, values, roots, held, compared.allowed, limit)
        flips = steps_apart(each, levels, theirs, compared.wrong)
        return Parting(each, flips, levels.numel(), found.unexplained, found.distance)
    return None
