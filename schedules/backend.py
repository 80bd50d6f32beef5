"""What a back end is: all that depends on a family of targets, in one object.

A back end owns the features that its family asks for, the layouts of weights, the rules that
schedule its kernels and their order, what a tuner may search, and the options of the compiler that
it can serve. `registry` lists them; passes, tuner and compiler ask the object and know no family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import tvm
from tvm import tirx

from tvm_insta.schedules.base import (
    Blocking,
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    OtherKind,
    Tiles,
    start,
    with_symbol_of,
)
from tvm_insta.schedules.variants import (
    BinaryLayer,
    ChoosesFloats,
    Measured,
    PackedLayer,
    RefusedMatrix,
    TileWeights,
    UsesTiles,
)


@dataclass(frozen=True)
class Rule:
    """One way to schedule a kind of function.

    Attributes:
        name: for messages.
        apply: schedules a kernel and returns the record's name of what it did, and the tiles it
            used. Raises `OtherKind` or `NotApplicable`.
        space: the tiles that are worth a measurement, each of which `apply` takes as it stands;
            None where there is nothing to choose. Raises as `apply`.
    """

    name: str
    apply: Callable[[Kernel], tuple[str, ConvTiles | None]]
    space: Callable[[Kernel], list[ConvTiles]] | None = None


@dataclass(frozen=True)
class Ability:
    """A value of a compiler option that only some targets can serve.

    Attributes:
        option: its name, "stem", "storage" or "binary".
        value: of the option.
        any_of: sets of features in LLVM's names, of which the target has to have one whole.
        note: what else a user should know, for the message that refuses it; "" for nothing.
    """

    option: str
    value: str
    any_of: tuple[frozenset[str], ...] = (frozenset(),)
    note: str = ""

    @property
    def needs(self) -> str:
        """The features as a phrase, "" where none is needed."""
        each = (", ".join(sorted(features)) for features in self.any_of if features)
        return " or ".join(each)


@dataclass(frozen=True)
class ScheduleRecord:
    """How one PrimFunc was scheduled.

    Attributes:
        function: name of the PrimFunc in the module.
        rule: "insta_bconv", "insta_bconv_bytes", "insta_bconv_nibbles", "insta_bconv_pairs",
            "insta_bconv_runs", "insta_bconv_signs", "insta_fconv", "insta_fconv_tiles",
            "insta_pack", "sweep", "moments", "pool", "reduction", "elementwise" or "unscheduled".
        tiles: the tile sizes that were used, for convolutions, and packing of images on a CPU.
        reason: why the rule that is meant for the function did not apply; "" where it did.
    """

    function: str
    rule: str
    tiles: Tiles | None = None
    reason: str = ""


class Fusion(Enum):
    """What becomes one kernel."""

    TILES = (
        "moments and packed bits are computed on the tiles of the kernel that makes their tensor"
    )
    CHANNELS = "kernels that keep to their channels are computed one behind the other"


class BackEnd(ABC):
    """A family of targets; subclasses are listed in `registry.BACK_ENDS`.

    Attributes:
        title: what a person calls its targets.
        abilities: the restricted values of options that some of its targets can serve.
        device_code: whether kernels are code for a device beside the CPU, which a compiler of its
            own makes; only a CPU has the plain-C form, bundles, counters and parameters to tune.
        fusion: what its rules compute in one kernel, beside an element-wise epilogue.
        features: of this target, in LLVM's names.
        family: figures that its rules go by.
    """

    title: ClassVar[str]
    abilities: ClassVar[tuple[Ability, ...]] = ()
    device_code: ClassVar[bool] = False
    fusion: ClassVar[Fusion] = Fusion.TILES

    def __init__(self, target: tvm.target.Target, features: frozenset[str]) -> None:
        self.target = target
        self.features = features
        self.family = self.choose_family()

    @classmethod
    @abstractmethod
    def takes(cls, target: tvm.target.Target) -> bool:
        """Whether the back end is that of a target."""

    @abstractmethod
    def choose_family(self) -> Family:
        """The family of the target, by its options and `features`."""

    @property
    @abstractmethod
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order in which they are tried."""

    def can(self, option: str, value: str) -> bool:
        """Whether the target can serve a restricted value of an option."""
        return any(
            ability.option == option
            and ability.value == value
            and any(needed <= self.features for needed in ability.any_of)
            for ability in self.abilities
        )

    def doubt(self, option: str, value: str) -> str:
        """Why a value of an option that the target can serve may not pay; "" where it does."""
        return ""

    def binary_blocking(self, out_channels: int, bits: int) -> Blocking | None:
        """How a binary weight without groups is laid out.

        Args:
            out_channels: output channels.
            bits: bits of an activation.

        Returns:
            The layout, or None for blocks of words as wide as the target's vectors.
        """
        return None

    def refuses_matrix(self, layer: PackedLayer) -> RefusedMatrix | None:
        """Why no unit for products of matrices of bits computes a layer; None where one does.

        One does so from the layout of `insta.bitserial_conv2d_runs`.
        """
        return RefusedMatrix.NO_UNIT

    @property
    def float_block(self) -> int:
        """Output channels of a block of a float32 weight; 0 for one plain vector."""
        return self.family.float_block

    def uses_tiles(
        self,
        wish: str = "auto",
        measured: Mapping[BinaryLayer, Measured] | None = None,
        weights: TileWeights | None = None,
    ) -> UsesTiles | None:
        """Which binary convolutions AMX tiles compute; None where the target has none.

        Args:
            wish: "auto" (what should be faster), "amx" or "popcount".
            measured: figures of both forms, for "auto".
            weights: what the weights in tiles are kept as; None for what suits each layer.
        """
        return None

    def chooses_floats(self, kind: str) -> ChoosesFloats | None:
        """Which float layers compute in narrow numbers, and how; None for vectors everywhere.

        Args:
            kind: "bf16" or "int8".
        """
        return None

    def channels_kept(self, function: tirx.PrimFunc) -> int | None:
        """The channels of a kernel that `Fusion.CHANNELS` may compute together with its like.

        Args:
            function: legalised, not fused and not scheduled.

        Returns:
            None where it must stay apart.
        """
        return None

    def schedule(
        self, name: str, function: tirx.PrimFunc, lanes: int, wish: Tiles
    ) -> tuple[tirx.PrimFunc, ScheduleRecord]:
        """Schedule a function by the first rule that can; without one it stays as it is.

        Args:
            name: of the function, for its record.
            function: legalised and fused, not scheduled.
            lanes: 32-bit lanes that element-wise code is vectorised by.
            wish: tiles; the default leaves them to the rule, and so do tiles that do not fit.
        """
        reason, mine = "", wish if isinstance(wish, ConvTiles) else ConvTiles()
        for rule in self.rules:
            # Tiles that do not fit are worth one retry with the rule's own.
            for tiles in dict.fromkeys((mine, ConvTiles())):
                kernel = Kernel(start(function), self.family, lanes, tiles)
                try:
                    label, used = rule.apply(kernel)
                except OtherKind:
                    continue
                except NotApplicable as error:
                    reason = reason or str(error)
                except Exception as error:  # whatever went wrong, the function itself is correct
                    reason = f"{rule.name}: {first_line(error)}"
                else:
                    made = with_symbol_of(kernel.schedule.mod["main"], function)
                    return made, ScheduleRecord(name, label, used, reason)
        return function, ScheduleRecord(name, "unscheduled", None, reason)

    def space(self, function: tirx.PrimFunc, lanes: int) -> Sequence[Tiles]:
        """The tiles of a function that are worth a measurement; `schedule` applies each as it is.

        Bands of rows are never longer than those that the rules take by themselves: those leave
        just enough tasks for the threads, which a measurement in one thread, or of instructions,
        does not see.

        Args:
            function: a legalised and fused PrimFunc with static rows and columns.
            lanes: as of `schedule`.

        Returns:
            The sets, in a fixed order; empty for a function whose rule has nothing to choose.
        """
        kernel = Kernel(start(function), self.family, lanes, ConvTiles())
        for rule in self.rules:
            if rule.space is None:
                continue
            try:
                return rule.space(kernel)
            except (OtherKind, NotApplicable):
                continue
        return []


def first_line(error: Exception) -> str:
    """The sentence of a TVM error without the printed IR in front of it."""
    text = str(error)
    message = text.rsplit("Error message:", maxsplit=1)[-1].strip()
    return message.splitlines()[0] if message else type(error).__name__
