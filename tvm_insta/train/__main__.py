"""``python -m tvm_insta.train``: train a binary network on folders of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_insta import cli
from tvm_insta.train.options import PRECISIONS, Execution, Recipe

_DEFAULT = Recipe()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.train",
        description="Train a binary network in two steps: binary activations with real weights, "
        "then binary weights too. The same command goes on with an interrupted run.",
    )
    result.add_argument(
        "--data", type=Path, required=True, metavar="DIR|ZIP",
        help="folder with train and test (or val), each a folder or zip file of "
        "<class>/<image> files, or one zip file of both",
    )
    result.add_argument("--output", type=Path, required=True, help="folder of the run")
    _add_recipe(result.add_argument_group("recipe"))
    group = result.add_argument_group("execution")
    group.add_argument("--cache", type=Path, help="folder of decoded images")
    group.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    group.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="use torch.compile (default: yes)",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    group.add_argument(
        "--test-every", type=int, default=1, metavar="EPOCHS",
        help="classify the test images this often, and after each step (default 1)",
    )
    group.add_argument("--teacher", type=Path, metavar="FILE", help="model.safetensors of a teacher")
    group.add_argument("--limit", type=int, metavar="N", help="only N training images per class")
    group.add_argument("--stop-after", type=int, metavar="EPOCHS", help="stop early; resumable")
    return result


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    two = {"nargs": 2, "metavar": ("REAL", "BINARY")}
    group.add_argument("--model", help=f"resnet20, resnet18 or mobilenet_v1 ({_DEFAULT.model})")
    group.add_argument("--variant", help=f"baseline, insta or insta_plus ({_DEFAULT.variant})")
    group.add_argument(
        "--statistic", help="mean, variance, third_central or third_moment (default)"
    )
    group.add_argument("--select", nargs="+", help="layers that are instance-aware (default: all)")
    group.add_argument(
        "--reuse-statistics", action=argparse.BooleanOptionalAction, default=None,
        help="thresholds reuse the statistics of the PReLU before them",
    )
    group.add_argument("--epochs", type=int, help="of each step", **two)
    group.add_argument("--batch", type=int, help=f"images per update ({_DEFAULT.batch})")
    group.add_argument("--learning-rate", type=float, help="of Adam in each step", **two)
    group.add_argument("--warmup", type=float, help="share of each step in which the rate rises")
    group.add_argument("--weight-decay", type=float, help="in each step", **two)
    group.add_argument("--label-smoothing", type=float)
    group.add_argument("--teacher-weight", type=float, help="share of the teacher in the loss")
    group.add_argument("--clip-norm", type=float, help="largest norm of the gradient")
    group.add_argument("--instance-rate", type=float, help="learning rate of coefficients, a factor")
    group.add_argument("--padding", type=int, help="pixels by which images are moved at most")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, default=None)
    group.add_argument("--precision", help=f"{' or '.join(PRECISIONS)} ({_DEFAULT.precision})")
    group.add_argument("--seed", type=int)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 for an error."""
    return cli.run(_train, parser(), argv)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Give the recipe that the arguments describe.

    Args:
        args: Of `parser`.

    Raises:
        TrainError: A value is not allowed.
    """
    given: dict[str, Any] = {
        name: value
        for name, value in vars(args).items()
        if name in Recipe.__dataclass_fields__ and value is not None
    }
    return Recipe.from_mapping(given, "the command line")


def _train(args: argparse.Namespace) -> int:
    recipe = recipe_of(args)
    execution = Execution(
        output=args.output,
        cache=args.cache,
        threads=args.threads,
        compile=args.compile,
        device=args.device,
        test_every=args.test_every,
        teacher=args.teacher,
        limit=args.limit,
        stop_after=args.stop_after,
    )
    from tvm_insta.train.progress import Progress
    from tvm_insta.train.trainer import train

    progress = Progress(recipe.total_epochs)
    try:
        result = train(args.data, recipe, execution, progress)
    finally:
        progress.clear()
    if result.path is None:
        print(f"stopped after epoch {len(result.rows)} of {recipe.total_epochs}")
        return 0
    accuracy = result.rows[-1].test_accuracy
    print(f"wrote {result.path}: test accuracy {accuracy:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
