"""``python -m benchmarks.training``: images per second of training, a plain loop and the trainer.

The plain loop is what a short script does: the network as it is built, float32, eager, NCHW,
PyTorch's Adam. Both get the same random images through the same distortion. Rounds alternate, so
that what else the machine does meets both. Seconds of wall clock say how long a run takes; seconds
of CPU time change less when the machine is shared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks import common
from tvm_insta import cli, nn
from tvm_insta.train.data.images import Images
from tvm_insta.train.learner import Learner
from tvm_insta.train.material import Material
from tvm_insta.train.optimiser import adam
from tvm_insta.train.options import Execution, Recipe
from tvm_insta.train.world import World

_RATE = 1e-3
_CLASSES = 10


@dataclass(frozen=True)
class Round:
    """Speed of some updates.

    Attributes:
        wall: Images per second.
        cpu: Images per second of CPU time of all threads.
    """

    wall: float
    cpu: float


def images(count: int, size: int) -> Images:
    """Random images, as labelled as any."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % _CLASSES
    return Images(pixels, labels, tuple(str(n) for n in range(_CLASSES)))


def plain_loop(recipe: Recipe, material: Material) -> Callable[[torch.Tensor], None]:
    """One update of the plain loop."""
    options = nn.ModelOptions(recipe.model, recipe.variant, _CLASSES)
    model = nn.build(options, init="training", seed=recipe.seed).train()
    nn.set_binary_weights(model, True)
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    generator = torch.Generator().manual_seed(0)

    def update(chosen: torch.Tensor) -> None:
        inputs, labels = material.distorted(chosen, slice(None), generator)
        loss = F.cross_entropy(model(inputs.contiguous()), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return update


def trainer(recipe: Recipe, material: Material, compiled: bool) -> Callable[[torch.Tensor], None]:
    """One update of the trainer, in its second step."""
    execution = Execution(Path("none"), Path("none"), compile=compiled)
    world = World(0, 1, torch.device("cpu"))
    learner = Learner(recipe, execution, world, material, None)
    nn.set_binary_weights(learner.model, True)
    learner.model.train()
    learner.optimiser = adam(learner.model, 0.0)
    generator = torch.Generator().manual_seed(0)

    def update(chosen: torch.Tensor) -> None:
        learner.update(chosen, _RATE, generator)

    return update


def timed(update: Callable[[torch.Tensor], None], chosen: torch.Tensor, updates: int) -> Round:
    """Run some updates."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(updates):
        update(chosen)
    count = updates * len(chosen)
    return Round(count / (time.perf_counter() - wall), count / (time.process_time() - cpu))


def profile(update: Callable[[torch.Tensor], None], chosen: torch.Tensor, rows: int) -> str:
    """Where the time of one update goes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        update(chosen)
    lines = ["| operator | calls | ms | share |", "| --- | ---: | ---: | ---: |"]
    averages = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in averages)
    for event in averages[:rows]:
        spent = event.self_cpu_time_total
        lines.append(
            f"| {event.key[:60]} | {event.count} | {spent / 1000:.1f} | {spent / total:.0%} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="benchmarks.training", description="Images per second of training."
    )
    result.add_argument("--model", default="resnet20")
    result.add_argument("--variant", default="insta")
    result.add_argument("--batch", type=int, default=128)
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--rounds", type=int, default=7, help="of each of the two (default 7)")
    result.add_argument("--updates", type=int, default=3, help="in a round (default 3)")
    result.add_argument("--precision", default="bf16", help="of the trainer (default bf16)")
    result.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="in the trainer"
    )
    result.add_argument("--profile", type=int, default=0, metavar="ROWS", help="profile both")
    common.add_output_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 for an error."""
    return cli.execute(_measure, parser(), argv)


def _measure(args: argparse.Namespace) -> int:
    common.check_arguments(args, batch=2, threads=1, rounds=1, updates=1, profile=0)
    torch.set_num_threads(args.threads)
    recipe = Recipe(args.model, args.variant, batch=args.batch, precision=args.precision)
    size = nn.input_shape(args.model)[-1]
    both = images(max(args.batch, _CLASSES), size)
    material = Material(recipe, both, both, torch.device("cpu"))
    chosen = torch.arange(args.batch)
    updates = {
        "plain loop": plain_loop(recipe, material),
        "trainer": trainer(recipe, material, args.compile),
    }
    for update in updates.values():  # compilation, memory
        timed(update, chosen, 2)
    rounds: dict[str, list[Round]] = {name: [] for name in updates}
    for _ in range(args.rounds):
        for name, update in updates.items():
            rounds[name].append(timed(update, chosen, args.updates))
    table, result = _table(rounds)
    if args.profile:
        for name, update in updates.items():
            table += f"\n\n{name}, one update:\n\n{profile(update, chosen, args.profile)}"
    settings = {n: getattr(args, n) for n in ("model", "variant", "batch", "threads", "precision")}
    settings |= {"compile": args.compile, "rounds": args.rounds, "updates": args.updates}
    common.write(args, {**common.record(**settings), "results": result}, table)
    return 0


def _table(rounds: dict[str, list[Round]]) -> tuple[str, dict[str, Any]]:
    lines = ["| | images/s (10 %, 90 %) | per second of CPU time |", "| --- | ---: | ---: |"]
    result: dict[str, Any] = {}
    for name, found in rounds.items():
        wall = common.percentiles([one.wall for one in found])
        cpu = common.percentiles([one.cpu for one in found])
        result[name] = {"wall": wall, "cpu": cpu}
        lines.append(f"| {name} | {wall[1]:.0f} ({wall[0]:.0f}, {wall[2]:.0f}) | {cpu[1]:.0f} |")
    # A round is compared with its neighbour: the machine did the same beside both.
    pairs = list(zip(rounds["plain loop"], rounds["trainer"], strict=True))
    ratio = {
        "wall": common.percentiles([ours.wall / plain.wall for plain, ours in pairs]),
        "cpu": common.percentiles([ours.cpu / plain.cpu for plain, ours in pairs]),
    }
    result["ratio"] = ratio
    lines.append(
        f"| ratio of neighbouring rounds | {ratio['wall'][1]:.2f} ({ratio['wall'][0]:.2f}, "
        f"{ratio['wall'][2]:.2f}) | {ratio['cpu'][1]:.2f} |"
    )
    return "\n".join(lines), result


if __name__ == "__main__":
    sys.exit(main())
