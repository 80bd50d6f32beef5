"""What the compiler did to each layer, and why: filled by the passes, stored in the manifest."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from tvm_insta.schedules import BinaryLayer

_log = logging.getLogger("tvm_insta")


@dataclass
class Layer:
    """One convolution or matrix product of the model.

    Attributes:
        name: module path in the PyTorch model.
        op: "conv2d" or "dense".
        kind: "binary" (runs on packed bits) or "float".
        reason: why it stayed float, "" for a binary layer.
        macs: multiply-accumulates for one image.
        weight_shape: ``[O, KH, KW, C / groups]`` or ``[O, C]``.
        output_shape: of one image, channels last.
        bits: activation bits of a binary layer, 0 for a float layer.
        notes: what a reader should know, e.g. that torch.sign(0) = 0 became +1.
        weight_key: digest of the constant that the layer's kernel is called with, set by lowering.
        with_previous: computed by the same call as the layer before it, see `merge_parallel`.
        shape: of a binary layer that could be popcounts or AMX tiles, set by lowering.
    """

    name: str
    op: str
    kind: str
    reason: str
    macs: int
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    bits: int = 0
    notes: tuple[str, ...] = ()
    weight_key: str = ""
    with_previous: bool = False
    shape: BinaryLayer | None = None


@dataclass(frozen=True)
class Pack:
    """One compare-and-pack.

    Attributes:
        channels: of the compared tensor.
        bits: of each code.
        compare: "ge", "gt", "le" or "lt".
        groups: channel groups, each starting a new word.
        pad: zero words around the image: top, left, bottom, right.
        thresholds: constant thresholds ``[L, *B]``, little-endian float32 as hexadecimal digits
            (JSON has no infinity); None where they depend on the instance.
        threshold_shape: their shape, empty where they depend on the instance.
        kernel: number of the kernel that packs among all that do, set by fusion like the rest.
        output: which of its outputs holds the words.
        source: where the compared tensor is: "argument:i" or "output:i" of the kernel.
        threshold: where the thresholds are, likewise.
    """

    channels: int
    bits: int
    compare: str
    groups: int
    pad: tuple[int, ...]
    thresholds: str | None = None
    threshold_shape: tuple[int, ...] = ()
    kernel: int = 0
    output: int = 0
    source: str = "argument:0"
    threshold: str = "argument:1"


@dataclass
class Report:
    """What the passes found, in the order of execution.

    Attributes:
        layers: every convolution and matrix product.
        packs: every compare-and-pack call.
    """

    layers: list[Layer] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)

    def groups(self) -> list[list[Layer]]:
        """The layers of each call of an operator, in the order of the calls."""
        found: list[list[Layer]] = []
        for layer in self.layers:
            if layer.with_previous:
                found[-1].append(layer)
            else:
                found.append([layer])
        return found

    def log(self) -> None:
        """Say why each float layer stayed float, and what the notes are.

        A layer with real-valued weights was hardly meant to be binary; one that was not made binary
        for any other reason is a warning.
        """
        for layer in self.layers:
            if layer.kind == "float":
                expected = layer.reason.startswith("its weights are real-valued")
                level = logging.INFO if expected else logging.WARNING
                _log.log(level, "%s (%s) stays float: %s", layer.name, layer.op, layer.reason)
            for note in layer.notes:
                _log.info("%s: %s", layer.name, note)
