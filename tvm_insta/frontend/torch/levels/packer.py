"""Level tensors as operators of the graph, each written once, and the judge's sites of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from tvm_insta.frontend.sites import Site
from tvm_insta.frontend.torch.graph import buffer, call, shape_of, source_of
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
        self.sites[site] = Site(
            compared=own if direct else None,
            roots=(own,) if direct else roots_of(data, self.levels),
            result=source_of(data),
            base=codes.value_base,
            step=codes.value_step,
            axes=axes,
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


def _behind(data: fx.Node, *sources: object) -> fx.Node:
    """The node in front of which a function of these tensors may stand, as early as possible."""
    order = {node: at for at, node in enumerate(data.graph.nodes)}
    flat: list[fx.Node] = []
    for source in sources:
        flat += [source] if isinstance(source, fx.Node) else list(source)  # type: ignore[call-overload]
    last = max([data, *flat], key=order.__getitem__)
    return last.next
