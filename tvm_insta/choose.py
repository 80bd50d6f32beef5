"""Which network a command line means: one of ours, a checkpoint, or a user's own factory."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_insta import onnx_model
from tvm_insta.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tvm_insta.describe import Source

DEFAULT_MODEL = "resnet20"
DEFAULT_CHECKPOINT = "digits"


@dataclass(frozen=True)
class Chosen:
    """A network and what is known of it.

    Attributes:
        label: short name for folders, e.g. "resnet18-insta".
        module: the network in eval mode.
        example: one example input, batch 1.
        source: what the manifest keeps.
        more: example inputs behind the first one.
        dynamic: whether the network takes more than one image at a time.
        notes: sentences for the user.
    """

    label: str
    module: nn.Module
    example: torch.Tensor
    source: Source
    more: tuple[torch.Tensor, ...] = ()
    dynamic: bool = True
    notes: tuple[str, ...] = ()


def add_model_arguments(parser: argparse.ArgumentParser, *, onnx_option: bool = True) -> None:
    """Options that name a network; ``--onnx`` means something else to `tvm_insta.export`."""
    group = parser.add_argument_group("model")
    group.add_argument("onnx_file", nargs="?", metavar="FILE.onnx", help="an ONNX or QONNX file")
    if onnx_option:
        group.add_argument("--onnx", dest="onnx_alias", metavar="FILE.onnx", help="the same")
    group.add_argument(
        "--model",
        help=f"resnet18, mobilenet_v1 or resnet20 (default: {DEFAULT_MODEL}, trained on digits)",
    )
    group.add_argument("--variant", help="baseline, insta (default) or insta_plus")
    group.add_argument(
        "--checkpoint", help='.safetensors or .pt file, or "digits" (ships with the package)'
    )
    group.add_argument("--seed", type=int, default=0, help="of random weights, without checkpoint")
    group.add_argument("--num-classes", type=int, help="number of logits")
    group.add_argument(
        "--statistic", help="mean, variance, third_central or third_moment (default)"
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
        metavar="FILE.py:FUNCTION",
        help="your own network: a function without arguments that returns an nn.Module "
        "(the file is executed)",
    )
    group.add_argument(
        "--input-shape",
        metavar="C,H,W",
        help="shape of one image of your own network, or of an ONNX file that leaves it open",
    )


def chosen_model(args: argparse.Namespace) -> Chosen:
    """Build what `add_model_arguments` describes.

    Raises:
        ModelError: unknown names, or a checkpoint that does not fit.
    """
    file = args.onnx_file or getattr(args, "onnx_alias", None)
    if file:
        return _onnx(onnx_model.network_of_arguments(file, args.input_shape))
    if args.factory:
        shape = _input_shape(args.input_shape)
        return from_description({"factory": args.factory, "input_shape": list(shape)})
    model, checkpoint = args.model, args.checkpoint
    if model is None:
        model = DEFAULT_MODEL
        if checkpoint is None and args.variant in (None, "insta"):
            checkpoint = DEFAULT_CHECKPOINT
    return from_description(
        {
            "model": model,
            "variant": args.variant or "insta",
            "checkpoint": checkpoint,
            "seed": args.seed,
            "num_classes": args.num_classes,
            "select": args.select,
            "reuse_statistics": args.reuse_statistics,
            "statistic": args.statistic,
        }
    )


def from_description(description: Mapping[str, Any]) -> Chosen:
    """Build a network from what a manifest says of its source.

    Raises:
        ModelError: the description names no network that can be built again, or the parameters are
            not those that were compiled.
    """
    import torch

    from tvm_insta import nn as networks
    from tvm_insta.describe import Source

    if "onnx" in description:
        return _onnx(onnx_model.network_again(description))
    known = dict(description)
    digest = known.pop("parameters_sha256", None)
    if "factory" in known:
        module = _call_factory(str(known["factory"])).eval()
        shape = tuple(int(dim) for dim in known["input_shape"])
        label = Path(str(known["factory"]).split(":")[0]).stem
        preprocessing = None
    elif "model" in known:
        module = networks.create(**known)
        shape = networks.input_shape(known["model"])[-3:]
        label = f"{known['model']}-{known['variant']}"
        preprocessing = networks.preprocessing(known["checkpoint"] or known["model"])
    else:
        raise ModelError(
            "the artefact does not say how to build its PyTorch network again: give the network, "
            "tvm_insta.validate.validate(artefact, module)"
        )
    found = parameters_digest(module)
    if digest is not None and digest != found:
        raise ModelError(
            "the PyTorch network that was built again has other parameters than the one that was "
            "compiled: give the checkpoint of that time, or compile again"
        )
    known_images = dict(preprocessing or {})
    classes = known_images.pop("classes", None)
    return Chosen(
        label=label,
        module=module,
        example=torch.zeros(1, *shape),
        source=Source(
            description={**known, "parameters_sha256": found},
            preprocessing=known_images or None,
            classes=None if classes is None else tuple(str(name) for name in classes),
        ),
    )


def _onnx(made: onnx_model.OnnxNetwork) -> Chosen:
    from tvm_insta.describe import Source

    first, *more = made.examples
    source = Source(made.description, made.preprocessing, made.classes)
    return Chosen(made.label, made.module, first, source, tuple(more), made.dynamic, made.notes)


def parameters_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _input_shape(text: str | None) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in (text or "").split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(
            f"got input shape {text!r}, but --factory needs --input-shape C,H,W, e.g. 3,224,224"
        )
    return shape


def _call_factory(text: str) -> nn.Module:
    from torch import nn as torch_nn

    path, _, function = text.partition(":")
    file = Path(path)
    if not function or not file.is_file():
        raise ModelError(f"got factory {text!r}, but it must be an existing FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ModelError(f"{file} is no Python file: give a file that ends in .py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    make = getattr(code, function, None)
    if not callable(make):
        raise ModelError(f"{file} has no function {function}: see that the name is right")
    module = make()
    if not isinstance(module, torch_nn.Module):
        raise ModelError(f"{text} returned a {type(module).__name__}, but must return an nn.Module")
    return module
