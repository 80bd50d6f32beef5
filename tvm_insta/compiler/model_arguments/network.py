"""Building a network from what names it, and what the manifest keeps of it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_insta.compiler import onnx_model
from tvm_insta.compiler.model_arguments.factory import make_network
from tvm_insta.compiler.model_arguments.sources import (
    ZOO,
    FactoryModel,
    OwnModel,
    as_description,
    parse_source,
)
from tvm_insta.errors import ModelError, one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tvm_insta.compiler.manifest_builder import Source


@dataclass(frozen=True)
class Chosen:
    """A network and what is known of it.

    Attributes:
        label: short name for folders, e.g. "resnet18-insta".
        module: the network in eval mode.
        example: one example input, batch 1.
        source: what the manifest keeps.
        note: what was taken, stripped, cast or ignored of the checkpoint, in one line; or empty.
        more: example inputs behind the first one.
        dynamic: whether the network takes more than one image at a time.
        notes: sentences for the user.
    """

    label: str
    module: nn.Module
    example: torch.Tensor
    source: Source
    note: str = ""
    more: tuple[torch.Tensor, ...] = ()
    dynamic: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Built:
    label: str
    module: nn.Module
    shape: Sequence[int]
    preprocessing: Mapping[str, Any] | None = None
    note: str = ""


def build_again(
    description: Mapping[str, Any],
    *,
    trusted: bool = False,
    factory: str | None = None,
    shape: Sequence[int | str] = (),
) -> Chosen:
    """Build a network from what a manifest says of its source.

    Args:
        description: the manifest's ``source``.
        trusted: execute the code that it names.
        factory: the user's own word for the code, instead of that of the manifest.
        shape: of one input, where the description does not say it.

    Raises:
        ModelError: the description names no network that can be built again, it names code to
            execute and is not trusted, or the checkpoint or the parameters are not those that were
            compiled.
        ArtefactError: a field of the description is of the wrong type.
    """
    if factory is not None:
        if "model" in description:
            raise ModelError(
                "got --factory for an artefact of one of our networks: leave it away, the manifest "
                "says how to build the network again"
            )
        known = {"input_shape": [size for size in shape if isinstance(size, int)], **description}
        known.pop("class", None)
        description = {**known, "factory": factory}
        trusted = True
    if "onnx" in description:
        return from_onnx(onnx_model.network_again(description))
    source = parse_source(description)
    if isinstance(source, FactoryModel) and not trusted:
        raise ModelError(
            f"the manifest names code to execute, {source.factory!r}: read it, and if you trust it "
            "say --trust-source, or give your own with --factory FILE.py:FUNCTION"
        )
    return build_network(source)


def from_onnx(made: onnx_model.OnnxNetwork) -> Chosen:
    """The network of an ONNX file."""
    from tvm_insta.compiler.manifest_builder import Source

    first, *more = made.examples
    return Chosen(
        label=made.label,
        module=made.module,
        example=first,
        source=Source(made.description, made.preprocessing, made.classes),
        more=tuple(more),
        dynamic=made.dynamic,
        notes=made.notes,
    )


def build_network(source: OwnModel | FactoryModel) -> Chosen:
    """Build a network.

    Raises:
        ModelError: it cannot be built; or, where `source` tells of hashes, it is another one.
    """
    import torch

    from tvm_insta.compiler.manifest_builder import Source

    digest = _checkpoint_digest(source)
    try:
        built = _factory(source) if isinstance(source, FactoryModel) else _own(source)
        example = torch.zeros(1, *built.shape)
    except (RuntimeError, OverflowError, MemoryError) as error:  # of sizes beyond the memory
        raise ModelError(
            f"the network cannot be made ({one_line(error)}): see that its sizes are right"
        ) from error
    found = parameters_digest(built.module)
    if source.parameters_sha256 not in (None, found):
        raise ModelError(
            "the PyTorch network that was built again has other parameters than the one that was "
            "compiled: give the checkpoint of that time, or compile again"
        )
    images = dict(built.preprocessing or {})
    classes = images.pop("classes", None)
    complete = dataclasses.replace(source, checkpoint_sha256=digest, parameters_sha256=found)
    return Chosen(
        label=built.label,
        module=built.module,
        example=example,
        source=Source(
            description=as_description(complete),
            preprocessing=images or None,
            classes=None if classes is None else tuple(str(name) for name in classes),
        ),
        note=built.note,
    )


def _own(source: OwnModel) -> _Built:
    from tvm_insta import nn as networks

    if source.model.startswith(ZOO):
        made = networks.create_from_zoo(source.model.removeprefix(ZOO))
        label = source.model.removeprefix(ZOO)
    else:
        made = networks.create_with_note(
            {
                "model": source.model,
                "variant": source.variant,
                "num_classes": source.num_classes,
                "select": source.select,
                "reuse_statistics": source.reuse_statistics,
                "statistic": source.statistic,
            },
            checkpoint=source.checkpoint,
            checkpoint_key=source.checkpoint_key,
            allow_nan=source.allow_nan,
            seed=source.seed,
        )
        label = f"{source.model}-{made.network.options.variant}"
    shape = networks.input_shape(made.network.options.model)
    return _Built(label, made.network, shape, made.preprocessing, made.note)


def _factory(source: FactoryModel) -> _Built:
    from tvm_insta import nn as networks

    module = make_network(source.factory, source.factory_args).eval()
    where, _, name = source.factory.rpartition(":")
    _check_values(module, source.factory)
    note = ""
    if source.checkpoint is not None:
        found = networks.read_checkpoint(source.checkpoint)
        note = networks.copy_into(
            module, found, key=source.checkpoint_key, allow_nan=source.allow_nan
        )
    elif not source.allow_nan:
        try:
            networks.refuse_non_finite(dict(module.named_parameters()))
        except ModelError as error:
            raise ModelError(f"{source.factory} {error}") from error
    label = Path(where).stem if where.endswith(".py") else f"{where.rpartition('.')[2]}-{name}"
    return _Built(label, module, source.input_shape, note=note)


def _check_values(module: nn.Module, factory: str) -> None:
    """Refuse parameters that have no values yet."""
    from torch.nn.parameter import is_lazy

    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(value) or value.is_meta:
            state = "no shape before the network has run once" if is_lazy(value) else "no values"
            raise ModelError(
                f"{factory} gives a network whose {name} has {state} ("
                f"{'a lazy layer' if is_lazy(value) else 'the meta device'}): give it values in "
                "the factory"
            )


def _checkpoint_digest(source: OwnModel | FactoryModel) -> str | None:
    """SHA-256 of the checkpoint, which must be that of the source if it tells one."""
    from tvm_insta import nn as networks

    if source.checkpoint is None:
        return None
    path = networks.zoo_checkpoints().get(source.checkpoint)
    if path is None:
        # What is no file is told with the names that there are, where it is read.
        path = Path(source.checkpoint)
        if not path.exists():
            if source.checkpoint_sha256 is None:
                return None
            raise ModelError(
                f"the checkpoint {path} that was compiled is not there: run where it is, or "
                "compile again"
            )
    found = networks.file_sha256(path)
    if source.checkpoint_sha256 not in (None, found):
        raise ModelError(
            f"checkpoint {path} has changed since it was compiled: give the file of that time, or "
            "compile again"
        )
    return found


def parameters_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and buffers."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):  # a module may keep other state, too
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
