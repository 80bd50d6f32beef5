"""``python -m benchmarks.ablation``: docs/ablation.md and its plot from the logs of training runs.

A run is a folder with log.csv and recipe.json, as `tvm_insta.train` writes them. Runs that differ
in their seed alone are one row; it is compared with the baseline of the same schedule, and only
with that.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from tvm_insta import cli, nn
from tvm_insta.errors import InputError
from tvm_insta.train import Recipe, history
from tvm_insta.train.curves import check_plot, plot
from tvm_insta.train.trainer import RECIPE_NAME

# Multiplications or additions for each element of a statistic, as the modules compute it.
_OPERATIONS = {"mean": 1, "variance": 2, "third_central": 3, "third_moment": 2}


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        recipe: How it was trained.
        rows: Its log.
    """

    recipe: Recipe
    rows: tuple[history.Row, ...]

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last epoch; never the best of several."""
        found = self.rows[-1].test_accuracy
        assert found is not None
        return found


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        recipe: With seed 0.
        runs: By seed.
    """

    recipe: Recipe
    runs: tuple[Run, ...]

    @property
    def mean(self) -> float:
        """Mean test accuracy."""
        return statistics.fmean(run.accuracy for run in self.runs)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, of a sample; None for one seed."""
        found = [run.accuracy for run in self.runs]
        return statistics.stdev(found) if len(found) > 1 else None

    @property
    def name(self) -> str:
        """What the rows are called."""
        recipe = self.recipe
        words = [recipe.variant]
        if recipe.variant != "baseline":
            words += (
                [recipe.statistic.replace("_", " ")] if recipe.statistic != "third_moment" else []
            )
            words += ["reused statistics"] if recipe.reuse_statistics else []
            words += [f"only {' '.join(recipe.select)}"] if recipe.select is not None else []
            words += [f"rate {recipe.instance_rate:g}"] if recipe.instance_rate != 1 else []
        return ", ".join(words)


@dataclass(frozen=True)
class Cost:
    """What a network has, for one image.

    Attributes:
        parameters: Other than 1-bit weights.
        macs: Of float layers.
        statistics: Operations on activations for statistics.
    """

    parameters: int
    macs: int
    statistics: int


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Read all runs below a folder.

    Returns:
        Finished runs, and a line for each that is not.

    Raises:
        InputError: There are none.
        TrainError: A log is damaged.
    """
    runs, unfinished = [], []
    for log in sorted(folder.rglob(history.NAME)):
        recipe = history.read_recipe(log.parent / RECIPE_NAME)
        rows = tuple(history.read(log))
        if rows and rows[-1].epoch == recipe.total_epochs and rows[-1].test_accuracy is not None:
            runs.append(Run(recipe, rows))
        else:
            done = rows[-1].epoch if rows else 0
            unfinished.append(f"{log.parent.name}: {done} of {recipe.total_epochs} epochs are done")
    if not runs and not unfinished:
        raise InputError(f"{folder} holds no run: copy log.csv and recipe.json of one there")
    return runs, unfinished


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Join runs that differ in their seed alone, the baseline of a schedule first."""
    found: dict[Recipe, list[Run]] = {}
    for run in runs:
        found.setdefault(replace(run.recipe, seed=0), []).append(run)
    groups = [
        Group(recipe, tuple(sorted(members, key=lambda run: run.recipe.seed)))
        for recipe, members in found.items()
    ]
    return sorted(
        groups, key=lambda g: (g.recipe.model, g.recipe.epochs, g.name != "baseline", g.name)
    )


def schedule(recipe: Recipe) -> Recipe:
    """What two recipes must share to be compared: everything but the instance-aware modules."""
    return replace(
        recipe,
        seed=0,
        variant="baseline",
        statistic="third_moment",
        select=None,
        reuse_statistics=False,
        instance_rate=1.0,
    )


def cost(recipe: Recipe) -> Cost:
    """Count parameters and work of the network of a recipe."""
    options = nn.ModelOptions(
        recipe.model,
        recipe.variant,
        nn.default_num_classes(recipe.model),
        recipe.select,
        recipe.reuse_statistics,
        recipe.statistic,
    )
    model = nn.build(options)
    counts = nn.count(model)
    return Cost(counts.float_parameters, counts.float_macs, _measured(model))


def _measured(model: nn.BinaryNetwork) -> int:
    """Operations for all statistics of one image."""
    ghost = copy.deepcopy(model).to("meta").eval()
    elements = 0

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal elements
        given = inputs[1] if len(inputs) > 1 else None
        # A PReLU always measures its own input, and hands the statistic to itself.
        if isinstance(module, nn.InstaPReLU) or given is None:
            elements += inputs[0][0].numel()

    for module in ghost.modules():
        if isinstance(module, nn.InstaThreshold | nn.InstaPReLU):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        ghost(torch.empty(1, *nn.input_shape(model.options.model), device="meta"))
    return elements * _OPERATIONS[model.options.statistic]


def page(groups: Sequence[Group], unfinished: Sequence[str], data: str, picture: str | None) -> str:
    """Write the page."""
    lines = [
        "# What the instance-aware modules gain",
        "",
        "`python -m benchmarks.ablation` wrote this page from the logs of training runs; do not "
        "edit it by",
        "hand. Accuracy is that after the last epoch on all test images, never the best of several "
        "epochs.",
        f"Data: {data}. A gain is the difference to the baseline of the same schedule, in points;",
        "with one seed each nothing is known of its spread. The equations of the modules are",
        "reconstructed, see [method.md](method.md). What they cost a compiled network in time is",
        "in [benchmarks.md](benchmarks.md).",
        "",
    ]
    for key in dict.fromkeys(schedule(group.recipe) for group in groups):
        members = [group for group in groups if schedule(group.recipe) == key]
        lines += _section(key, members)
    if unfinished:
        lines += ["## Runs that are not finished", "", *(f"- {line}" for line in unfinished), ""]
    if picture:
        lines += [f"![Loss and accuracy over the epochs]({picture})", ""]
    return "\n".join(lines)


def _section(key: Recipe, members: Sequence[Group]) -> list[str]:
    baseline = next((group for group in members if group.name == "baseline"), None)
    base_cost = cost(key)
    lines = [
        f"## {key.model}, {key.epochs[0]} epochs with real and {key.epochs[1]} with binary weights",
        "",
        f"Batches of {key.batch}, learning rates {key.learning_rate[0]:g} and "
        f"{key.learning_rate[1]:g}, {key.precision} operands of binary convolutions.",
        "",
        "| variant | test accuracy, % | seeds | gain | extra parameters | extra float MACs | "
        "operations for statistics |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for group in members:
        spent = cost(group.recipe)
        spread = "" if group.spread is None else f" ± {100 * group.spread:.2f}"
        seeds = ", ".join(str(run.recipe.seed) for run in group.runs)
        lines.append(
            f"| {group.name} | {100 * group.mean:.2f}{spread} | {seeds} | {_gain(group, baseline)} "
            f"| {spent.parameters - base_cost.parameters} | {spent.macs - base_cost.macs} "
            f"| {spent.statistics} |"
        )
    return [*lines, ""]


def _gain(group: Group, baseline: Group | None) -> str:
    if baseline is None:
        return "no baseline"
    if group is baseline:
        return ""
    gain = 100 * (group.mean - baseline.mean)
    if group.spread is None or baseline.spread is None:
        return f"{gain:+.2f}"
    spread = 100 * (group.spread**2 + baseline.spread**2) ** 0.5
    verdict = ", within the spread" if abs(gain) <= spread else ""
    return f"{gain:+.2f} (spread {spread:.2f}{verdict})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="benchmarks.ablation", description="Make the page of the ablation."
    )
    result.add_argument("--runs", type=Path, default=common.ROOT / "docs" / "runs")
    result.add_argument("--data", default="CIFAR-10, JPEG re-encoded", help="in words")
    result.add_argument("--output", type=Path, default=common.ROOT / "docs" / "ablation.md")
    result.add_argument("--plot", type=Path, help="draw the curves of the first seeds here")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 for an error."""
    return cli.run(_write, parser(), argv)


def _write(args: argparse.Namespace) -> int:
    if args.plot is not None:
        check_plot(args.plot)
    runs, unfinished = read_runs(args.runs)
    groups = grouped(runs)
    picture = None
    if args.plot is not None and groups:
        curves: Mapping[str, Sequence[history.Row]] = {
            group.name: group.runs[0].rows for group in groups
        }
        plot(curves, args.plot)
        picture = args.plot.name
    args.output.write_text(page(groups, unfinished, args.data, picture), encoding="utf-8")
    print(f"wrote {args.output}: {len(runs)} finished runs, {len(unfinished)} others")
    return 0


if __name__ == "__main__":
    sys.exit(main())
