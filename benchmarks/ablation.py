"""``python -m benchmarks.ablation``: docs/ablation.md and its plot from the logs of training runs.

A run is a folder with log.csv and recipe.json, as `tvm_insta.train` writes them. Runs that differ
in their seed alone are one row; it is compared with the baseline of the same schedule, and only
with that.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import ablation_latency, common
from benchmarks.ablation_latency import FORMS, NAME, Latencies
from benchmarks.ablation_plot import draw
from benchmarks.ablation_runs import Group, by_schedule, grouped, network, read_runs, title
from tvm_insta import cli, nn
from tvm_insta.train import Recipe
from tvm_insta.train.curves import check_plot

# Multiplications or additions for each element of a statistic, as the modules compute it.
_OPERATIONS = {
    "mean": 1,
    "variance": 2,
    "third_central": 3,
    "third_moment": 2,
    "third_over_second": 3,
}


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


def cost(recipe: Recipe) -> Cost:
    """Count parameters and work of the network of a recipe."""
    model = nn.build(network(recipe))
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


def page(
    groups: Sequence[Group],
    unfinished: Sequence[str],
    data: str,
    picture: str | None,
    latencies: Latencies | None = None,
) -> str:
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
        "reconstructed, see [method.md](method.md). Where a row names no statistic, it is",
        f"{Recipe.statistic}. What modules cost ResNet-18 and MobileNetV1 in time is in",
        "[benchmarks.md](benchmarks.md).",
        *_about_latency(latencies),
        "",
    ]
    for key, members in by_schedule(groups).items():
        lines += _section(key, members, latencies)
    if unfinished:
        lines += ["## Runs that are not finished", "", *(f"- {line}" for line in unfinished), ""]
    if picture:
        lines += [f"![Test accuracy of every run]({picture})", ""]
    return "\n".join(lines)


def _about_latency(latencies: Latencies | None) -> list[str]:
    if latencies is None:
        return []
    return [
        f"Latency is that of the compiled network on {latencies.machine}, batch 1, one",
        f"thread, against the baseline of the same form in the same of {latencies.rounds} "
        "alternating rounds:",
        "median and, in brackets, the range from the 10th to the 90th percentile",
        "(`python -m benchmarks.ablation --measure`). The VM pays for each kernel it calls, and",
        "instance-aware modules are many small ones.",
    ]


def _latency(network: nn.ModelOptions, form: str, latencies: Latencies | None) -> str:
    if latencies is None or (network, form) not in latencies.found:
        return ""
    found = latencies.found[network, form]
    if network.variant == "baseline":
        return f"{found.median_ms:.3f} ms"
    return f"{found.overhead:+.0f} % ({found.p10:+.0f} to {found.p90:+.0f})"


def _section(key: Recipe, members: Sequence[Group], latencies: Latencies | None) -> list[str]:
    baseline = next((group for group in members if group.name == "baseline"), None)
    base_cost = cost(key)
    forms = " | ".join(f"latency, {form}" for form in FORMS.values())
    lines = [
        f"## {title(key)}",
        "",
        f"Batches of {key.batch}, learning rates {key.learning_rate[0]:g} and "
        f"{key.learning_rate[1]:g}, {key.precision} operands of binary convolutions.",
        "",
        "| variant | test accuracy, % | seeds | gain | extra parameters | extra float MACs | "
        f"operations for statistics | {forms} |",
        f"| --- | ---: | --- | ---: | ---: | ---: | ---: |{' ---: |' * len(FORMS)}",
    ]
    for group in members:
        spent = cost(group.recipe)
        times = (_latency(network(group.recipe), form, latencies) for form in FORMS)
        spread = "" if group.spread is None else f" ± {100 * group.spread:.2f}"
        seeds = ", ".join(str(run.recipe.seed) for run in group.runs)
        lines.append(
            f"| {group.name} | {100 * group.mean:.2f}{spread} | {seeds} | {_gain(group, baseline)} "
            f"| {spent.parameters - base_cost.parameters} | {spent.macs - base_cost.macs} "
            f"| {spent.statistics} | {' | '.join(times)} |"
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
    result.add_argument("--plot", type=Path, help="draw the accuracies here")
    result.add_argument(
        "--measure",
        action="store_true",
        help=f"compile the networks, measure them in turns, and keep that in {NAME} of --runs",
    )
    result.add_argument("--rounds", type=int, default=200, help="of --measure (default 200)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 for an error."""
    return cli.execute(_write, parser(), argv)


def _write(args: argparse.Namespace) -> int:
    if args.plot is not None:
        check_plot(args.plot)
    runs, unfinished = read_runs(args.runs)
    groups = grouped(runs)
    if args.measure:
        common.check_arguments(args, rounds=1)
        measured = ablation_latency.measure(
            (network(group.recipe) for group in groups), args.rounds
        )
        ablation_latency.write(measured, args.runs / NAME)
    latencies = ablation_latency.read(args.runs / NAME)
    picture = None
    if args.plot is not None and groups:
        draw(groups, args.plot)
        picture = args.plot.name
    text = page(groups, unfinished, args.data, picture, latencies)
    args.output.write_text(text, encoding="utf-8")
    print(f"wrote {args.output}: {len(runs)} finished runs, {len(unfinished)} others")
    return 0


if __name__ == "__main__":
    sys.exit(main())
