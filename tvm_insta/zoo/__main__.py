"""``python -m tvm_insta.zoo``: list the trained networks of the package, and make new ones."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_insta import cli

if TYPE_CHECKING:
    from tvm_insta.nn import BinaryNetwork


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.zoo", description="Trained networks that come with the package."
    )
    verbs = result.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="a line for each network")
    show = verbs.add_parser("show", help="the model card of one network")
    show.add_argument("name", help="of the network")
    convert = verbs.add_parser("convert", help="turn a training run into a file of the zoo")
    convert.add_argument("run", type=Path, help="folder that tvm_insta.train wrote")
    convert.add_argument(
        "--name", required=True, help="of the network, e.g. resnet20-insta-cifar10"
    )
    convert.add_argument("--data", type=Path, required=True, help="its images, see tvm_insta.train")
    convert.add_argument("--cache", type=Path, help="folder of decoded images")
    convert.add_argument("--dataset", required=True, help="the data set, in words")
    convert.add_argument("--licence", required=True, help="of the data, in words")
    convert.add_argument(
        "--other-seeds",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of runs that differ in their seed alone",
    )
    convert.add_argument("--output", type=Path, required=True, help="folder of the two files")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 for an error."""
    return cli.execute(_run, parser(), argv)


def _run(args: argparse.Namespace) -> int:
    if args.verb == "list":
        return _list()
    if args.verb == "show":
        return _show(args.name)
    return _convert(args)


def _list() -> int:
    from tvm_insta import zoo
    from tvm_insta.zoo.card import read_card

    for name, path in zoo.checkpoints().items():
        card = read_card(path)
        size = f"{path.stat().st_size / 1000:.0f} kB"
        told = "no model card"
        if card:
            told = (
                f"{card['model']} {card['variant']}, {card['data']}: {card['accuracy']:.2%} of "
                f"{card['test_images']} test images"
            )
        print(f"{name}  {size}  {told}")
    return 0


def _show(name: str) -> int:
    from tvm_insta import zoo

    print(json.dumps(zoo.create(name).card, indent=1, sort_keys=True))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from tvm_insta.errors import ModelError
    from tvm_insta.train.evaluate import accuracy
    from tvm_insta.train.trainer import MODEL_NAME, trained_accuracy
    from tvm_insta.zoo.convert import convert

    if not args.output.is_dir():
        raise ModelError(f"{args.output} is no folder: create it first")

    def measure(network: BinaryNetwork, preprocessing: dict[str, Any]) -> tuple[float, int]:
        return accuracy(network, preprocessing, args.data, cache=args.cache)

    card = convert(
        args.run / MODEL_NAME,
        args.output,
        args.name,
        data=args.dataset,
        licence=args.licence,
        measure=measure,
        other_seeds=dict(trained_accuracy(run) for run in args.other_seeds),
    )
    print(
        f"wrote {args.output / args.name}.safetensors ({card.bytes / 1000:.0f} kB) and its card: "
        f"{card.accuracy:.2%} of {card.test_images} test images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
