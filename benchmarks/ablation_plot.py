"""The picture of the ablation: test accuracy of every run, by schedule and variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablation_runs import Group, by_schedule, title

_ROW, _HEAD = 0.28, 0.9  # inches


def draw(groups: Sequence[Group], path: Path) -> None:
    """Draw a panel for each schedule: a point for each seed, a bar for their mean.

    Args:
        groups: Finished runs, those of a schedule together, its baseline first.
        path: PNG, SVG or PDF file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = by_schedule(groups)
    heights = [_HEAD + _ROW * len(members) for members in panels.values()]
    figure, rows = pyplot.subplots(
        len(panels),
        1,
        figsize=(8, sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, (key, members) in zip(rows[:, 0], panels.items(), strict=True):
        for at, group in enumerate(members):
            baseline = group.recipe.variant == "baseline"
            colour = "0.45" if baseline else "C0"
            if baseline:
                axes.axvline(100 * group.mean, color="0.75", linestyle="--", linewidth=1)
            axes.plot([100 * group.mean], [at], "|", color=colour, markersize=14, markeredgewidth=2)
            found = [100 * run.accuracy for run in group.runs]
            axes.plot(found, [at] * len(found), "o", color=colour, markersize=4, alpha=0.7)
        axes.set_yticks(range(len(members)), [group.name for group in members])
        axes.set_ylim(len(members) - 0.5, -0.5)
        axes.set_title(title(key), loc="left", fontsize="medium")
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    rows[-1, 0].set_xlabel("test images recognised, %: a point for each seed, a bar for the mean")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
