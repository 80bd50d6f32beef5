"""The picture in the README: latency beside the peers', from recorded results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers import Result

OURS, PEER = "#c8102e", "#9aa5b1"


def draw(results: Sequence[Result], processor: str, path: Path) -> None:
    """Bars of the one-thread medians, one panel per network, shortest on top."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(result.model for result in results))
    threads = min(result.threads for result in results)
    figure, panels = pyplot.subplots(
        1, len(models), figsize=(5.2 * len(models), 3.6), squeeze=False, layout="constrained"
    )
    for panel, model in zip(panels[0], models, strict=True):
        shown = [
            (result.median, result.engine)
            for result in results
            if result.model == model and result.threads == threads and result.median is not None
        ]
        shown.sort(reverse=True)
        colours = [OURS if engine.startswith("tvm_insta") else PEER for _, engine in shown]
        bars = panel.barh([engine for _, engine in shown], [ms for ms, _ in shown], color=colours)
        panel.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        panel.set_title(f"{model}, 224x224, batch 1", fontsize=10)
        panel.set_xlabel(f"ms, {threads} thread{'s' * (threads > 1)} (median)", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.margins(x=0.12)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Latency on {processor}", fontsize=11)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
