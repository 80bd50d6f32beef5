"""Phase 5: layers take the form that runs fast on the target.

- Zero padding moves into the packed activations, and its exact correction into a small table with
  one entry per border class (see `ops.bitserial_conv2d_blocked`).
- Weights are laid out in blocks of L output channels, one per vector lane.
- Or, where AMX is faster, a binary convolution becomes one of +-1 bytes, with zeros for padding.
- Where all dot products are even (an even number of channels, or of taps), kernels compute half of
  them, ``base / 2 - popsum``, and the factor 2 goes into the scale behind: one instruction less for
  each output, and exact, since doubling a float32 is.
- Moments become sums of rows, which the kernel that makes the rows can take along, and a mean.
- Float layers may compute in bfloat16 or in 8-bit integers, where that is asked for.
- Dense layers become 1x1 convolutions on 1x1 images: one kernel family serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.passes.report import Pack, Report
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    Rewriter,
    array,
    const,
    ints,
    names,
    op_name,
    shape_of,
)
from tvm_insta.schedules import BinaryLayer, Blocking, UsesTiles


@dataclass(frozen=True)
class Narrow:
    """In which numbers float layers compute.

    Attributes:
        kind: "bf16" or "int8".
        largest: for "int8", the largest magnitude of the input of each float layer, by its name.
        zero: for "int8", the code of 0, as the target's instructions want it: 128 or 0.
    """

    kind: str
    largest: Mapping[str, float] = field(default_factory=dict)
    zero: int = packing.ZERO_CODE


BlockingOf = Callable[[int, int], Blocking | None]
"""(output channels, bits of an activation) -> the layout, see `BackEnd.binary_blocking`."""


def lower(
    mod: tvm.IRModule,
    report: Report,
    lanes: int,
    blocking: BlockingOf | None = None,
    narrow: Narrow | None = None,
    tiles: UsesTiles | None = None,
    float_block: int = 0,
) -> tvm.IRModule:
    """Bring every layer with constant weights into its blocked form.

    Args:
        mod: module after `recognise` and `fold_scales`.
        report: its layers receive notes on how they are computed.
        lanes: 32-bit lanes of the target's vectors; the widest block a weight is laid out in.
        blocking: the target's own layout of binary weights, see `BackEnd.binary_blocking`.
        narrow: numbers of the float layers, None for float32.
        tiles: which binary convolutions AMX computes, see `BackEnd.uses_tiles`; None for none.
        float_block: the widest block of a float32 weight, where that is not `lanes`, see
            `BackEnd.float_block`.
    """
    mod = _Lower(mod, report, lanes, blocking, narrow, tiles, float_block or lanes).run()
    report.packs = list(_packs(mod))
    return mod


def _packs(mod: tvm.IRModule) -> Iterator[Pack]:
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if op_name(binding.value) == "relax.insta.threshold_pack":
                (x, thresholds), attrs = binding.value.args, binding.value.attrs
                value = array(thresholds)
                yield Pack(
                    channels=shape_of(x)[-1],
                    bits=int(attrs["bits"]),
                    compare=str(attrs["compare"]),
                    nan=int(attrs["nan"]),
                    groups=int(attrs["groups"]),
                    pad=tuple(ints(attrs["pad"])),
                    site=str(attrs["site"]),
                    thresholds=None if value is None else value.astype("<f4").tobytes().hex(),
                    threshold_shape=() if value is None else value.shape,
                )


_LEAST_LANES = 4  # the instructions work on vectors of four 32-bit lanes or more


class _Lower(Rewriter):
    def __init__(
        self,
        mod: tvm.IRModule,
        report: Report,
        lanes: int,
        blocking: BlockingOf | None,
        narrow: Narrow | None,
        tiles: UsesTiles | None,
        float_block: int,
    ) -> None:
        super().__init__(mod)
        self.tiles = tiles
        self.narrow = narrow
        self.lanes = lanes
        self.float_block = float_block
        self.blocking = blocking
        self.report = report
        self.halves: dict[Expr, Expr] = {}  # expression -> one that is half of it
        self.rules = {
            "relax.insta.conv2d": self._conv2d,
            "relax.insta.dense": self._dense,
            "relax.insta.bitserial_conv2d": self._bitserial_conv2d,
            "relax.insta.bitserial_dense": self._bitserial_dense,
            "relax.astype": self._astype,
            "relax.multiply": self._multiply,
            "relax.insta.moments": self._moments,
        }

    def visit(self, call: Call) -> Expr:
        rule = self.rules.get(op_name(call))
        result = rule(call) if rule is not None else None
        return call if result is None else result

    def _block_floats(self, weight: Array) -> Array:
        """A float32 weight in blocks of the target's own width."""
        return packing.block_weight(weight, self._block(weight.shape[0], self.float_block))

    def _block(self, out_channels: int, widest: int = 0) -> int:
        """The largest of the widest block, its half and so on that divides the output channels."""
        lanes = widest or self.lanes
        while out_channels % lanes:
            lanes //= 2
        return lanes

    def _block_bits(
        self, weight: Array, channels: int, groups: int, bits: int
    ) -> tuple[Array, bool]:
        """A packed weight in the target's own layout, or else in plain vectors of words.

        Also whether it is to be summed as counts of bytes.
        """
        own = None
        if self.blocking is not None and groups == 1:
            own = self.blocking(weight.shape[0], bits)
        if own is None:
            return packing.block_weight(weight, self._block(weight.shape[0])), False
        if own.dtype == "uint32":
            return packing.block_weight(weight, own.lanes), own.byte_counts
        return packing.block_pieces(weight, own.dtype, own.lanes, channels), False

    def _note(self, call: Call, note: str = "", shape: BinaryLayer | None = None) -> None:
        """Tell the report how the kernel of a layer computes it."""
        for layer in self.report.named(names(call.attrs["layers"])):
            own = note
            if shape is not None and self.tiles is not None and self.tiles.fits(shape):
                layer.shape, own = shape, self.tiles.note(shape)
            layer.notes += (own,) if own and own not in layer.notes else ()

    def _conv2d(self, call: Call) -> Expr | None:
        weight = array(call.args[1])
        if weight is None:
            return None
        attrs = call.attrs
        if ints(attrs["dilation"]) == [1, 1] and int(attrs["groups"]) == 1:
            strides, padding = ints(attrs["strides"]), ints(attrs["padding"])
            result = self._narrow(call, call.args[0], weight, strides, padding)
            if result is not None:
                return result
        blocked = self._block_floats(weight)
        return self.emit(
            ops.conv2d_blocked(
                call.args[0],
                const(blocked),
                strides=ints(attrs["strides"]),
                padding=ints(attrs["padding"]),
                dilation=ints(attrs["dilation"]),
                groups=int(attrs["groups"]),
                layers=names(attrs["layers"]),
            )
        )

    def _dense(self, call: Call) -> Expr | None:
        data, weight = call.args[0], array(call.args[1])
        if weight is None:
            return None
        canonical = weight.T[:, None, None, :]
        image = self._as_image(data)
        narrow = self._narrow(call, image, canonical, [1, 1], [0, 0, 0, 0])
        if narrow is not None:
            return self._as_vector(narrow)
        blocked = self._block_floats(canonical)
        result = self.emit(
            ops.conv2d_blocked(image, const(blocked), layers=names(call.attrs["layers"]))
        )
        return self._as_vector(result)

    def _narrow(
        self,
        call: Call,
        data: Expr,
        weight: Array,
        strides: Sequence[int],
        padding: Sequence[int],
    ) -> Expr | None:
        """The float layer in narrow numbers; None where it stays in float32."""
        lanes = self._block(weight.shape[0], self.float_block)
        if self.narrow is None or lanes < _LEAST_LANES:
            return None
        layers = names(call.attrs["layers"])
        largest = max((self.narrow.largest.get(layer, 0.0) for layer in layers), default=0.0)
        kind = self.narrow.kind
        packed, sums, steps = packing.narrow_weight(weight, kind, lanes)
        self._note(call, f"computed in {kind}")
        scale = packing.LARGEST_CODE / max(largest, 1e-30) if kind == "int8" else 1.0
        result = self.emit(
            ops.conv2d_narrow(
                data,
                const(packed, "uint32"),
                kind=kind,
                kernel_width=weight.shape[2],
                strides=strides,
                padding=padding,
                scale=scale,
                zero=self.narrow.zero,
                layers=layers,
            )
        )
        if kind == "bf16":
            return result
        if self.narrow.zero:
            added = const(self.narrow.zero * sums, "int32")
            result = self.emit(relax.op.subtract(result, added))
        return self.emit(
            relax.op.multiply(self.emit(relax.op.astype(result, "float32")), const(steps / scale))
        )

    def _bitserial_conv2d(self, call: Call) -> Expr | None:
        weight, packed = array(call.args[1]), self.calls.get(call.args[0])
        if weight is None or packed is None or op_name(packed) != "relax.insta.threshold_pack":
            return None
        attrs = call.attrs
        padding = ints(attrs["padding"])
        image = shape_of(call.args[0])[1:3]
        if not all(isinstance(size, int) for size in image):
            return None
        data, shape = call.args[0], _binary_layer(weight, image, call)
        if self.tiles is not None and self.tiles(shape):
            return self._in_tiles(call, data, weight, shape)
        if any(padding):
            kept = packed.attrs
            data = self.emit(
                ops.threshold_pack(
                    *packed.args,
                    bits=int(kept["bits"]),
                    compare=str(kept["compare"]),
                    nan=int(kept["nan"]),
                    groups=int(kept["groups"]),
                    pad=padding,
                    site=str(kept["site"]),
                )
            )
        return self._blocked(data, weight, image, padding, call, shape)

    def _in_tiles(self, call: Call, data: Expr, weight: Array, shape: BinaryLayer) -> Expr:
        """The binary convolution for AMX."""
        tiled = packing.tile_weight(weight, shape.channels)
        self._note(call, shape=shape)
        return self.emit(
            ops.bitserial_conv2d_signs(
                data,
                const(tiled, "uint32"),
                in_channels=shape.channels,
                kernel_width=weight.shape[2],
                strides=shape.strides,
                padding=shape.padding,
                layers=names(call.attrs["layers"]),
            )
        )

    def _bitserial_dense(self, call: Call) -> Expr | None:
        weight = array(call.args[1])
        if weight is None:
            return None
        image = self._as_image(call.args[0])
        result = self._blocked(image, weight[:, None, None, :], [1, 1], [0, 0, 0, 0], call)
        half = self.halves.get(result)
        if half is None:
            return self._as_vector(result)
        return self._doubled(self._as_vector(half), const(2, "int32"))

    def _blocked(
        self,
        data: Expr,
        weight: Array,
        image: Sequence[int],
        padding: Sequence[int],
        call: Call,
        shape: BinaryLayer | None = None,
    ) -> Expr:
        attrs = call.attrs
        dense = op_name(call) == "relax.insta.bitserial_dense"
        strides = [1, 1] if dense else ints(attrs["strides"])
        dilation = [1, 1] if dense else ints(attrs["dilation"])
        groups = 1 if dense else int(attrs["groups"])
        bits, encoding = int(attrs["bits"]), str(attrs["encoding"])
        base, row_class, col_class = packing.border_tables(
            weight,
            image,
            strides=strides,
            padding=padding,
            dilation=dilation,
            in_channels_per_group=int(attrs["in_channels"]) // groups,
            bits=bits,
            encoding=encoding,
        )
        channels = int(attrs["in_channels"]) // groups
        blocked, byte_counts = self._block_bits(weight, channels, groups, bits)
        self._note(call, shape=shape)
        alpha = 2 if encoding == "bipolar" else 1
        halve = alpha == 2 and not (base % 2).any()
        result = self.emit(
            ops.bitserial_conv2d_blocked(
                data,
                const(blocked, str(blocked.dtype)),
                const(base // 2 if halve else base, "int32"),
                const(row_class, "int32"),
                const(col_class, "int32"),
                strides=strides,
                dilation=dilation,
                groups=groups,
                bits=bits,
                alpha=1 if halve else alpha,
                byte_counts=byte_counts,
                layers=names(attrs["layers"]),
            )
        )
        return self._doubled(result, const(2, "int32")) if halve else result

    def _doubled(self, half: Expr, two: Expr) -> Expr:
        """``2 * half``, remembered: it dies if every reader can do with the half."""
        result = self.emit(relax.op.multiply(half, two))
        self.halves[result] = half
        return result

    def _astype(self, call: Call) -> Expr | None:
        half = self.halves.get(call.args[0])
        if half is None or str(call.attrs.dtype) != "float32":
            return None
        return self._doubled(self.emit(relax.op.astype(half, "float32")), const(2.0))

    def _multiply(self, call: Call) -> Expr | None:
        half, factor = self.halves.get(call.args[0]), array(call.args[1])
        if half is None or factor is None:
            return None
        return self.emit(relax.op.multiply(half, const(2 * factor)))

    def _moments(self, call: Call) -> Expr | None:
        width = shape_of(call.args[0])[2]
        if not isinstance(width, int):
            return None
        rows = self.emit(ops.moment_rows(call.args[0], ints(call.attrs["orders"])))
        return self.emit(ops.moment_mean(rows, width))

    def _as_image(self, data: Expr) -> Expr:
        batch, channels = shape_of(data)
        return self.emit(relax.op.reshape(data, [batch, 1, 1, channels]))

    def _as_vector(self, image: Expr) -> Expr:
        batch, _, _, channels = shape_of(image)
        return self.emit(relax.op.reshape(image, [batch, channels]))


def _binary_layer(weight: Array, image: Sequence[int], call: Call) -> BinaryLayer:
    """A binary convolution with a packed weight [O, KH, KW, Cw], as its form depends on it."""
    attrs = call.attrs
    (height, width), (stride_y, stride_x) = image, ints(attrs["strides"])
    top, left, bottom, right = ints(attrs["padding"])
    return BinaryLayer(
        image=(height, width),
        channels=int(attrs["in_channels"]),
        out_channels=weight.shape[0],
        kernel=(weight.shape[1], weight.shape[2]),
        strides=(stride_y, stride_x),
        padding=(top, left, bottom, right),
        plain=int(attrs["bits"]) == int(attrs["groups"]) == 1
        and str(attrs["encoding"]) == "bipolar"
        and ints(attrs["dilation"]) == [1, 1],
    )
