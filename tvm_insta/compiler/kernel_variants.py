"""The forms of binary convolutions on a CPU with AMX, as tuning records have measured them.

A network is lowered with all its binary convolutions as popcounts, and with all that can be in AMX
tiles. Where the log holds the kernel of a layer in both forms, each with its best parameters, the
faster form is the one to compile. Layers of one shape are decided together, by the sum of their
kernels, so that they stay one kernel.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from tvm_insta.frontend import Imported
from tvm_insta.passes.context import Context
from tvm_insta.passes.kernels import kernels_of_layers
from tvm_insta.passes.pipeline import Compiled, run_pipeline
from tvm_insta.schedules import BinaryLayer, Measured
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.lookup import has_records, look_up


@dataclass(frozen=True)
class Form:
    """The binary layers of one shape in both forms.

    Attributes:
        shape: what they have in common.
        layers: their names in the network.
        figures: what all of them take, in the log's unit.
    """

    shape: BinaryLayer
    layers: tuple[str, ...]
    figures: Measured

    @property
    def text(self) -> str:
        """One line for people; forms are compared by seconds only."""
        popcount, tiles = (1e6 * value for value in (self.figures.popcount, self.figures.tiles))
        won = "AMX tiles" if tiles < popcount else "popcount"
        more = f" +{len(self.layers) - 1}" if len(self.layers) > 1 else ""
        return f"{self.layers[0]}{more}: {won}; {popcount:.1f} us by popcount, {tiles:.1f} in tiles"


def measured_forms(
    popcount: Compiled, tiles: Compiled, target: InstaTarget, logs: Path | None = None
) -> list[Form]:
    """What the log knows of both forms of a network's binary layers.

    Args:
        popcount: the network's kernels, not scheduled, without tiles.
        tiles: the same, with all layers in tiles that can be.
        target: with AMX.
        logs: a folder of logs, None for the packaged ones.

    Raises:
        LogError: the log of this target is damaged.
    """
    if not has_records(target, logs):
        return []
    figures = [_figures(each, target, logs) for each in (popcount, tiles)]
    names = defaultdict(list)
    for name, (shape, _) in figures[1].items():
        names[shape].append(name)
    return [
        Form(
            shape,
            tuple(own),
            Measured(*(sum(form[name][1] for name in own) for form in figures)),
        )
        for shape, own in names.items()
        if all(form[name][1] for form in figures for name in own)
    ]


def _figures(
    compiled: Compiled, target: InstaTarget, logs: Path | None
) -> dict[str, tuple[BinaryLayer, float]]:
    """Shape and figure of each binary layer that has two forms, by its name; 0 if unknown."""
    medians = look_up(compiled.mod, target, logs).medians
    return {
        layer.name: (layer.shape, sum(medians.get(symbol, 0.0) for symbol in symbols))
        for layer, symbols in kernels_of_layers(compiled.mod, compiled.report)
        if layer.shape is not None
    }


def measured_figures(
    imported: Imported, context: Context, logs: Path | None = None
) -> dict[BinaryLayer, Measured]:
    """For `Context.measured`: the figures of a log, by the shape of a layer.

    Nothing where there is nothing to choose, or where the log has no records of the target.

    Raises:
        LogError: the log of this target is damaged.
    """
    target = context.target
    choice = context.binary == "auto" and context.back_end.uses_tiles() is not None
    if not choice or not has_records(target, logs):
        return {}
    popcount, tiles = (
        run_pipeline(imported, replace(context, binary=variant), last="fuse")
        for variant in ("popcount", "amx")
    )
    return {form.shape: form.figures for form in measured_forms(popcount, tiles, target, logs)}
