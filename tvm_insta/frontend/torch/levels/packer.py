"""Level tensors as operators of the graph, each written once, and the validator's sites of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from tvm_insta.frontend.sites import Site
from tvm_insta.frontend.torch.graph import (
    STUFFED,
    base_name,
    buffer,
    call,
    shape_of,
    source_of,
)
from tvm_insta.frontend.torch.levels.codes import Codes
from tvm_insta.frontend.torch.levels.compared import roots_of
from tvm_insta.frontend.torch.levels.forms import Form
from tvm_insta.frontend.torch.levels.products import Factor, turn
from tvm_insta.frontend.torch.levels.steps import Steps
from tvm_insta.frontend.torch.levels.values import Levels


class Packer:
    """Writes `levels` operators.

    Attributes:
        levels: what is known of the graph's tensors.
        sites: by key, the level tensors that are packed; entered here.
    """

    def __init__(self, levels: Levels, sites: dict[str, Site]) -> None:
        self.levels = levels
        self.sites = sites
        self._levels_of: dict[tuple[fx.Node, bool, bool], fx.Node] = {}
        self._factors: dict[tuple[fx.Node, bool], fx.Node] = {}

    def packed(
        self, form: Form, data: fx.Node, steps: Steps, codes: Codes, *, own_values: bool
    ) -> fx.Node:
        """The levels operator, once for all layers that read the tensor."""
        last = form.channels_last
        key = (data, own_values, last)
        if key in self._levels_of:
            return self._levels_of[key]
        site = f"{source_of(data) or data.name}"
        thresholds = [
            t if isinstance(t, fx.Node) else buffer(data.next, t, "threshold")
            for t in codes.thresholds
        ]
        base, step = codes.integers
        if own_values:
            base, step = base * codes.factor, step * codes.factor
        before = _behind(data, steps.x, thresholds)
        made = call(
            before,
            torch.ops.tvm_insta.levels.default,
            (steps.x, thresholds, base, step, codes.compare, codes.nan, last, site),
        )
        image = not last and len(shape_of(data)) == 4
        axes = (0, 3, 1, 2) if image else tuple(range(len(shape_of(data))))
        self._site(site, data, steps, codes, axes)
        self._levels_of[key] = made
        return made

    def _site(
        self, site: str, data: fx.Node, steps: Steps, codes: Codes, axes: tuple[int, ...]
    ) -> None:
        own = source_of(steps.x)
        direct = bool(own) and steps.x is not data
        named, own_axes, every = _named(data, axes)
        self.sites[site] = Site(
            compared=own if direct and named is data else None,
            roots=(own,) if direct else roots_of(named, self.levels),
            result=source_of(named),
            base=codes.value_base,
            step=codes.value_step,
            axes=own_axes,
            every=every,
        )

    def factor(self, before: fx.Node, factor: Factor) -> fx.Node:
        """The packed levels of one factor, the summed dimension last."""
        x, thresholds = factor.steps.x, list(factor.codes.thresholds)
        key = (factor.data, factor.turned)
        if key in self._factors:
            return self._factors[key]
        if factor.turned:
            x, thresholds = turn(before, replace(factor.steps, thresholds=factor.codes.thresholds))
        nodes = [
            t if isinstance(t, fx.Node) else buffer(before, t, "threshold") for t in thresholds
        ]
        rows = "columns" if factor.turned else "rows"
        site, axes = f"{source_of(factor.data) or factor.data.name}.{rows}", factor.axes
        codes, (base, step) = factor.codes, factor.values
        arguments = (x, nodes, base, step, codes.compare, codes.nan, True, site)
        made = call(before, torch.ops.tvm_insta.levels.default, arguments)
        self._site(site, factor.data, factor.steps, codes, axes)
        self._factors[key] = made
        return made


def _named(
    data: fx.Node, axes: tuple[int, ...]
) -> tuple[fx.Node, tuple[int, ...], tuple[int, ...]]:
    """The tensor of the exported graph whose elements were turned into ``data``.

    A sequence is packed as an image of height 1, a factor on the left as one on the right, what is
    summed in several dimensions as rows, and the image of a transposed convolution with zeros
    between its elements.

    Args:
        data: what is packed.
        axes: for each of its dimensions, where the kernel has it.

    Returns:
        The tensor with its axes and the distance of its elements, see `Site`; ``data`` itself
        where it is of no named tensor.
    """
    node, own = data, list(axes)
    every = [1] * len(own)
    while not source_of(node):
        base, rank = base_name(node), len(own)
        if base == "aten.unsqueeze":
            dim = int(node.args[1]) % rank  # type: ignore[arg-type]
            gone, _ = own.pop(dim), every.pop(dim)
            own = [axis - (axis > gone) for axis in own]
        elif base in ("aten.permute", "aten.transpose"):
            dims = node.args[1] if base == "aten.permute" else _exchanged(rank, *node.args[1:])
            places = [int(dim) % rank for dim in dims]  # type: ignore[union-attr, arg-type]
            own = [own[places.index(dim)] for dim in range(rank)]
            every = [every[places.index(dim)] for dim in range(rank)]
        elif base == "aten.flatten":  # of the last dimensions
            first = int(node.args[1])  # type: ignore[arg-type]
            more = len(shape_of(node.args[0])) - rank  # type: ignore[arg-type]
            place = own[first]
            own = [axis + more * (axis > place) for axis in own[:first]]
            own += range(place, place + more + 1)
            every += [1] * more
        elif base == "aten._to_copy":  # of truths
            pass
        elif STUFFED in node.meta:
            node, every = node.meta[STUFFED][0], list(node.meta[STUFFED][1])
            continue
        else:
            return data, axes, ()
        (node,) = (each for each in node.args[:1] if isinstance(each, fx.Node))
    return node, tuple(own), tuple(every) if max(every, default=1) > 1 else ()


def _exchanged(rank: int, *pair: object) -> list[int]:
    """The order of dimensions of which two are exchanged."""
    order = list(range(rank))
    one, other = (int(dim) % rank for dim in pair)  # type: ignore[call-overload]
    order[one], order[other] = order[other], order[one]
    return order


def _behind(data: fx.Node, *sources: object) -> fx.Node:
    """The node in front of which a function of these tensors may stand, as early as possible."""
    flat: list[fx.Node] = []
    for source in sources:
        flat += [source] if isinstance(source, fx.Node) else list(source)  # type: ignore[call-overload]
    return max([data, *flat]).next  # the last one in the order of the graph
