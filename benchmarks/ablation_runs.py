"""Training runs for benchmarks.ablation: read, and joined where only the seed differs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvm_insta import nn
from tvm_insta.errors import InputError
from tvm_insta.train import Recipe, history
from tvm_insta.train.trainer import RECIPE_NAME


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
                [recipe.statistic.replace("_", " ")] if recipe.statistic != Recipe.statistic else []
            )
            words += ["reused statistics"] if recipe.reuse_statistics else []
            words += [f"only {' '.join(recipe.select)}"] if recipe.select is not None else []
            rate = recipe.instance_rate
            words += [f"rate {rate:g}"] if rate != Recipe.instance_rate else []
        return ", ".join(words)


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
        # What concerns instance-aware modules alone does not tell baselines apart.
        baseline = run.recipe.variant == "baseline"
        key = schedule(run.recipe) if baseline else replace(run.recipe, seed=0)
        found.setdefault(key, []).append(run)
    groups = [
        Group(recipe, tuple(sorted(members, key=lambda run: run.recipe.seed)))
        for recipe, members in found.items()
    ]

    def order(group: Group) -> tuple[object, ...]:
        recipe = group.recipe
        begun = recipe.start_sha256 or ""  # runs from scratch come first
        return recipe.model, begun, recipe.epochs, group.name != "baseline", group.name

    return sorted(groups, key=order)


def network(recipe: Recipe) -> nn.ModelOptions:
    """The network of a recipe."""
    return nn.ModelOptions(
        recipe.model,
        recipe.variant,
        nn.default_num_classes(recipe.model),
        recipe.select,
        recipe.reuse_statistics,
        recipe.statistic,
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


def by_schedule(groups: Sequence[Group]) -> dict[Recipe, list[Group]]:
    """The groups of each schedule, in the order of the first of them."""
    found: dict[Recipe, list[Group]] = {}
    for group in groups:
        found.setdefault(schedule(group.recipe), []).append(group)
    return found


def title(key: Recipe) -> str:
    """What a schedule is called."""
    real, binary = key.epochs
    if key.start_sha256 is None:
        return f"{key.model}, {real} epochs with real and {binary} with binary weights"
    epochs = f"{real} and {binary} epochs" if real else f"{binary} epochs"
    return f"{key.model}, {epochs} from a trained network ({key.start_sha256[:8]})"
