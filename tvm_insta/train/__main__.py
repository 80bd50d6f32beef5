"""``python -m tvm_insta.train``: train a binary network on folders of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tvm_insta import cli
from tvm_insta.errors import TrainError
from tvm_insta.train import recipe_file
from tvm_insta.train.options import CROPS, PRECISIONS, Execution, Recipe

_DEFAULT = Recipe()
_ZOO = "zoo:"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.train",
        description="Train a binary network in two steps: binary activations with real weights, "
        "then binary weights too. The same command goes on with an interrupted run.",
        epilog="Several GPUs or machines: torchrun --nproc-per-node N -m tvm_insta.train ...",
    )
    result.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR|ZIP",
        help="folder with train and test (or val), each a folder or zip file of <class>/<image> "
        "files; one zip file of both; or the folder of torchvision's CIFAR",
    )
    result.add_argument("--output", type=Path, required=True, help="folder of the run")
    result.add_argument(
        "--recipe", type=Path, metavar="FILE", help="TOML file; the options below override it"
    )
    _add_network(result.add_argument_group("network"))
    _add_recipe(result.add_argument_group("recipe"))
    _add_execution(result.add_argument_group("execution"))
    return result


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", help=f"resnet20, resnet18 or mobilenet_v1 ({_DEFAULT.model})")
    group.add_argument("--variant", help=f"baseline, insta or insta_plus ({_DEFAULT.variant})")
    group.add_argument(
        "--statistic",
        help="mean, variance, third_central, third_moment or third_over_second (default)",
    )
    group.add_argument("--select", nargs="+", help="layers that are instance-aware (default: all)")
    group.add_argument(
        "--reuse-statistics",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="thresholds reuse the statistics of the PReLU before them",
    )


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    def of_steps(option: str, kind: type, text: str) -> None:
        group.add_argument(option, type=kind, nargs=2, metavar=("REAL", "BINARY"), help=text)

    of_steps("--epochs", int, f"of each step ({_DEFAULT.epochs[0]} {_DEFAULT.epochs[1]})")
    of_steps("--learning-rate", float, "of Adam, at the start of each step")
    of_steps("--weight-decay", float, "in each step")
    group.add_argument("--batch", type=int, help=f"images per update ({_DEFAULT.batch})")
    group.add_argument("--warmup", type=float, help="share of each step in which the rate rises")
    group.add_argument("--label-smoothing", type=float, help="probability that all classes share")
    group.add_argument("--teacher-weight", type=float, help="share of the teacher in the loss")
    group.add_argument("--clip-norm", type=float, help="largest norm of the gradient")
    group.add_argument(
        "--instance-rate",
        type=float,
        help=f"factor on the learning rate of INSTA's coefficients ({_DEFAULT.instance_rate:g})",
    )
    group.add_argument("--stored-size", type=int, help="size at which decoded images are kept")
    group.add_argument("--crop", help=f"{' or '.join(CROPS)} ({_DEFAULT.crop})")
    group.add_argument("--padding", type=int, help="pixels by which images are moved at most")
    group.add_argument("--crop-area", type=float, help="smallest share of an image in a window")
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=None, help="mirror half of them"
    )
    group.add_argument("--precision", help=f"{' or '.join(PRECISIONS)} ({_DEFAULT.precision})")
    group.add_argument("--seed", type=int, help=f"({_DEFAULT.seed})")


def _add_execution(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cache", type=Path, metavar="DIR", help="folder of decoded images")
    group.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use torch.compile, which needs a C++ compiler on CPUs (default: yes)",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    group.add_argument(
        "--test-every",
        type=int,
        default=1,
        metavar="EPOCHS",
        help="classify the test images this often, and after each step (default 1)",
    )
    group.add_argument(
        "--teacher", type=Path, metavar="FILE", help="model.safetensors of a teacher"
    )
    group.add_argument(
        "--start",
        metavar="FILE",
        help="model.safetensors, or zoo:NAME, whose parameters the run starts from: of the same "
        "variant, or a baseline",
    )
    group.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves at the end")
    group.add_argument("--limit", type=int, metavar="N", help="only N training images per class")
    group.add_argument(
        "--stop-after", type=int, metavar="EPOCHS", help="stop early, to be continued"
    )


def _checkpoint(text: str) -> Path:
    """The file that `--start` names; raises TrainError."""
    if not text.startswith(_ZOO):
        return Path(text)
    from tvm_insta.nn import zoo_checkpoints

    known = zoo_checkpoints()
    if text.removeprefix(_ZOO) not in known:
        raise TrainError(f"got --start {text}, but the zoo has {', '.join(known)}")
    return known[text.removeprefix(_ZOO)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 for an error."""
    return cli.execute(_train, parser(), argv)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Give the recipe that the arguments describe: the file's, changed by the options.

    Args:
        args: Of `parser`.

    Raises:
        TrainError: A value is not allowed.
    """
    values = {} if args.recipe is None else recipe_file.read(args.recipe)
    recipe = Recipe.from_mapping(values, str(args.recipe))
    names = {one.name for one in fields(Recipe)}
    given = {n: v for n, v in vars(args).items() if n in names and v is not None}
    both = {name: getattr(recipe, name) for name in names} | given
    return Recipe.from_mapping(both, "the command line")


def _train(args: argparse.Namespace) -> int:
    recipe = recipe_of(args)
    names = {one.name for one in fields(Execution)}
    given = {n: v for n, v in vars(args).items() if n in names}
    execution = Execution(**given | {"start": args.start and _checkpoint(args.start)})

    from tvm_insta.train.curves import check_plot, plot
    from tvm_insta.train.progress import Progress
    from tvm_insta.train.trainer import train

    if args.plot is not None:
        check_plot(args.plot)
    progress = Progress(recipe.total_epochs)
    try:
        result = train(recipe, execution, progress)
    except KeyboardInterrupt:
        progress.clear()
        print(
            f"tvm_insta.train: interrupted; the same command goes on from the last epoch kept in "
            f"{execution.output}",
            file=sys.stderr,
        )
        return cli.INTERRUPTED
    finally:
        progress.clear()
    if not result.leads:
        return 0
    if args.plot is not None:
        plot({recipe.variant: result.rows}, args.plot)
    if result.path is None:
        print(f"stopped after epoch {result.epoch} of {recipe.total_epochs}")
        return 0
    print(f"wrote {result.path}: test accuracy {result.test_accuracy:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
