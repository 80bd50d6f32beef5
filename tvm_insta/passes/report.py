"""What the compiler did to each layer, and why: filled by the passes, stored in the manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from tvm_insta.frontend import Reason, SourceLayer
from tvm_insta.schedules import BinaryLayer, ScheduleRecord

_log = logging.getLogger("tvm_insta")


@dataclass
class Layer:
    """One convolution or matrix product of the model.

    Attributes:
        source: what the front end found out about it.
        notes: what a reader should know of how it is computed.
        together: names of all layers that one kernel computes, where it is more than this one.
        shape: of a binary layer that could be popcounts or AMX tiles, set by lowering.
        compute_dtype: of a float layer, the numbers it computes in: "fp32", "bf16" or "int8".
    """

    source: SourceLayer
    notes: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    shape: BinaryLayer | None = None
    compute_dtype: str = "fp32"

    def add_note(self, note: str) -> None:
        """Add a note, once."""
        if note not in self.notes:
            self.notes += (note,)

    @property
    def name(self) -> str:
        """Module path in the network."""
        return self.source.name

    @property
    def op(self) -> str:
        """Operation: "conv2d", "dense" or "matmul"."""
        return self.source.op

    @property
    def kind(self) -> str:
        """How it is computed: "binary" (on packed bits) or "float"."""
        return "binary" if self.source.binary else "float"

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.source.macs

    @property
    def bits(self) -> int:
        """Bits of an activation of a binary layer, 0 for a float layer."""
        return self.source.bits

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the weight: ``[O, KH, KW, C / groups]`` or ``[O, C]``."""
        return self.source.weight_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one image, channels last."""
        return self.source.output_shape

    @property
    def reason(self) -> str:
        """Why it stayed float, "" for a binary layer."""
        return "; ".join(why.text for why in self.source.why_float)


@dataclass(frozen=True)
class Pack:
    """One compare-and-pack, to words or to bytes.

    Attributes:
        channels: of the compared tensor.
        bits: of each code.
        compare: "ge", "gt", "le" or "lt".
        nan: the code of NaN.
        groups: channel groups, each starting a new word.
        pad: zeros around the image, in pixels: top, left, bottom, right.
        site: key of `Imported.sites`.
        thresholds: constant thresholds ``[L, *B]``, little-endian float32 as hexadecimal digits
            (JSON has no infinity); None where they depend on the instance.
        threshold_shape: their shape, empty where they depend on the instance.
        kernel: number of the kernel that packs among all that do, set by fusion like the rest.
        output: which of its outputs holds the words or bytes.
        source: where the compared tensor is: "argument:i" or "output:i" of the kernel.
        threshold: where the thresholds are, likewise.
    """

    channels: int
    bits: int
    compare: str
    groups: int
    pad: tuple[int, ...]
    site: str = ""
    thresholds: str | None = None
    threshold_shape: tuple[int, ...] = ()
    kernel: int = 0
    output: int = 0
    source: str = "argument:0"
    threshold: str = "argument:1"
    nan: int = 0


@dataclass
class Report:
    """What the passes found, in the order of execution.

    Attributes:
        layers: every convolution and matrix product.
        packs: every compare-and-pack call.
        schedules: one record per kernel.
    """

    layers: list[Layer] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)
    schedules: list[ScheduleRecord] = field(default_factory=list)

    @staticmethod
    def of(layers: Iterable[SourceLayer]) -> Report:
        """The report of a network that no pass has touched yet."""
        return Report([Layer(source, source.notes) for source in layers])

    def named(self, names: Iterable[str]) -> list[Layer]:
        """The layers of these names."""
        wanted = set(names)
        return [layer for layer in self.layers if layer.name in wanted]

    def absorbed(self, names: Iterable[str]) -> None:
        """Layers that became part of another kernel are no layers of their own any more."""
        gone = set(names)
        self.layers = [layer for layer in self.layers if layer.name not in gone]

    def log(self) -> None:
        """Say why each float layer stayed float, and what the notes are.

        A layer with real-valued weights was hardly meant to be binary; one that was not made binary
        for any other reason is a warning.
        """
        for layer in self.layers:
            if layer.kind == "float":
                meant = any(why.code is Reason.REAL_WEIGHTS for why in layer.source.why_float)
                level = logging.INFO if meant else logging.WARNING
                op = layer.source.op
                _log.log(level, "%s (%s) stays float: %s", layer.name, op, layer.reason)
            for note in layer.notes:
                _log.info("%s: %s", layer.name, note)
