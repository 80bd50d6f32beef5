"""The options of the command lines that name a network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tvm_insta.compiler import onnx_model
from tvm_insta.compiler.model_arguments.network import Chosen, build_network, from_onnx
from tvm_insta.compiler.model_arguments.sources import ZOO, FactoryModel, OwnModel
from tvm_insta.errors import ModelError

DEFAULT_MODEL = "resnet20"
DEFAULT_VARIANT = "insta"
TRAINED = ZOO + "resnet20-{variant}-cifar10"
"""The network of a variant that is taken where none is named."""
# Python's words, which are likelier on a command line than JSON's.
_WORDS = {"True": True, "False": False, "None": None}


def add_model_arguments(parser: argparse.ArgumentParser, *, onnx_option: bool = True) -> None:
    """Options that name a network; ``--onnx`` means something else to `tvm_insta.export`."""
    group = parser.add_argument_group("model")
    group.add_argument("onnx_file", nargs="?", metavar="FILE.onnx", help="an ONNX or QONNX file")
    if onnx_option:
        group.add_argument("--onnx", dest="onnx_alias", metavar="FILE.onnx", help="the same")
    group.add_argument(
        "--model",
        help=f"resnet18, mobilenet_v1 or resnet20, or {ZOO}NAME, a trained one that is in the "
        f"package (default: {TRAINED.format(variant='insta')}, or that of --variant)",
    )
    group.add_argument("--variant", help="baseline, insta (default) or insta_plus")
    group.add_argument(
        "--checkpoint",
        help="file of trained parameters (a state dict, alone or in a training's checkpoint; "
        '.safetensors), or "digits" (ships with the package)',
    )
    group.add_argument(
        "--checkpoint-key",
        metavar="KEY",
        help='which state dict of the file, such as "state_dict_ema" (default: the usual one)',
    )
    group.add_argument(
        "--allow-nan",
        action="store_true",
        default=None,
        help="take parameters that are NaN or infinite",
    )
    group.add_argument("--seed", type=int, help="of random weights, without checkpoint (0)")
    group.add_argument("--num-classes", type=int, help="number of logits")
    group.add_argument(
        "--statistic",
        help="mean, variance, third_central, third_over_second or third_moment (default)",
    )
    group.add_argument(
        "--reuse-statistics",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="thresholds reuse the statistics of the PReLU before them",
    )
    group.add_argument("--select", nargs="+", help="layers that are instance-aware (default: all)")
    group.add_argument(
        "--factory",
        metavar="FILE.py:NAME",
        help="your own network: a function or class that gives an nn.Module, in a file or as "
        "package.module:NAME (the code is executed)",
    )
    group.add_argument(
        "--factory-args",
        nargs="+",
        metavar="NAME=VALUE",
        help="arguments of the factory, each value JSON or else text; or one JSON object",
    )
    group.add_argument(
        "--input-shape",
        metavar="C,H,W",
        help="shape of one input of your own network, without the batch: 3,224,224 or 784; or of "
        "an ONNX file that leaves it open",
    )


def chosen_model(args: argparse.Namespace) -> Chosen:
    """Build what `add_model_arguments` describes.

    Raises:
        ModelError: unknown names, a checkpoint that does not fit, or an option that would have no
            effect.
    """
    named: str | None = getattr(args, "onnx_alias", None)
    if named is not None and args.onnx_file is not None:
        raise ModelError(
            f"got two ONNX files, {args.onnx_file} and --onnx {named}, but one is the network: "
            "leave one of them away"
        )
    file = args.onnx_file if named is None else named
    if file is not None:  # "", of a variable of the shell that is not set, is no file
        others = ("model", "variant", "num_classes", "statistic", "reuse_statistics", "select")
        more = ("seed", "factory", "factory_args", "checkpoint", "checkpoint_key", "allow_nan")
        _refuse(args, (*others, *more), f"the ONNX file {file}, which is the network")
        return from_onnx(onnx_model.network_of_arguments(file, args.input_shape))
    return build_network(_source(args))


def _source(args: argparse.Namespace) -> OwnModel | FactoryModel:
    _refuse_without_effect(args)
    checkpoint: str | None = args.checkpoint
    if args.factory is not None:
        return FactoryModel(
            factory=args.factory,
            input_shape=input_shape(args.input_shape),
            factory_args=factory_arguments(args.factory_args or ()),
            checkpoint=checkpoint,
            checkpoint_key=args.checkpoint_key,
            allow_nan=bool(args.allow_nan),
        )
    if args.model is None and _is_default(args):
        variant = args.variant or DEFAULT_VARIANT
        return OwnModel(model=TRAINED.format(variant=variant.replace("_", "-")))
    return OwnModel(
        model=args.model or DEFAULT_MODEL,
        variant=args.variant,
        checkpoint=checkpoint,
        checkpoint_key=args.checkpoint_key,
        allow_nan=bool(args.allow_nan),
        seed=args.seed or 0,
        num_classes=args.num_classes,
        select=None if args.select is None else tuple(args.select),
        reuse_statistics=args.reuse_statistics,
        statistic=args.statistic,
    )


def _is_default(args: argparse.Namespace) -> bool:
    """Whether nothing speaks against the trained network that is the default."""
    from tvm_insta.nn import VARIANTS

    against = ("checkpoint", "seed", "num_classes", "select", "reuse_statistics", "statistic")
    known = args.variant is None or args.variant in VARIANTS
    return known and all(getattr(args, name) is None for name in against)


def _refuse_without_effect(args: argparse.Namespace) -> None:
    """Refuse options that could change nothing: who gives one expects that it does."""
    of_ours = ("model", "variant", "num_classes", "statistic", "reuse_statistics", "select")
    if args.factory is not None:
        _refuse(args, (*of_ours, "seed"), "--factory, which makes the network by itself")
    else:
        _refuse(args, ("factory_args", "input_shape"), "a network without --factory")
        if (args.model or "").startswith(ZOO):
            without = (*of_ours[1:], "seed", "checkpoint", "checkpoint_key", "allow_nan")
            _refuse(args, without, f"--model {args.model}, which is trained already")
    if args.checkpoint is not None:
        _refuse(args, ("seed",), "--checkpoint, which replaces the random weights")
    else:
        _refuse(args, ("checkpoint_key",), "a network without --checkpoint")
        if args.factory is None:
            _refuse(args, ("allow_nan",), "a network without --checkpoint")
    if args.variant == "baseline":
        instance = ("statistic", "reuse_statistics", "select")
        _refuse(args, instance, "--variant baseline, which has no instance-aware layers")


def _refuse(args: argparse.Namespace, names: Iterable[str], beside: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ModelError(
                f"got --{name.replace('_', '-')} beside {beside}: it would have no effect, leave "
                "one of them away"
            )


def input_shape(text: str | None) -> tuple[int, ...]:
    """Read ``--input-shape``; raises `ModelError`."""
    try:
        shape = tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ModelError(
            f"got input shape {text!r}, but --factory needs --input-shape, the sizes of one input "
            "without the batch, e.g. 3,224,224 or 784"
        )
    return shape


def factory_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read ``--factory-args``: NAME=VALUE each, or one JSON object; raises `ModelError`."""
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        found = _value(words[0])
        if isinstance(found, dict):
            return found
        raise ModelError(f"got --factory-args {words[0]!r}, which is no JSON object: write {{...}}")
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise ModelError(
                f"got --factory-args {word!r}, but each must be NAME=VALUE with a name of its own"
            )
        values[name] = _value(text)
    return values


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON
    except ValueError:
        return text
