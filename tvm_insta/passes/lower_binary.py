"""Part of phase 5: binary layers take the layout that runs fast on the target.

- Zero padding moves into the packed activations, and its exact correction into a small table with
  one entry per border class (see `ops.bitserial_conv2d_blocked`).
- Weights are laid out in blocks of L output channels, one per vector lane.
- Where all dot products are even (an even number of channels, or of taps), kernels compute half of
  them, ``base / 2 - popsum``, and the factor 2 goes into the scale behind: one instruction less for
  each output, and exact, since doubling a float32 is.
- Dense layers become 1x1 convolutions on 1x1 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.ops.bitserial_conv2d import BitserialConv2d
from tvm_insta.passes.context import Context
from tvm_insta.passes.images import DenseAsImages, block_width
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Array, Expr, array, const, op_name
from tvm_insta.passes.select_kernels import packed_image
from tvm_insta.schedules import Blocking, PackedLayer, RefusedMatrix


@module_pass("LowerBinary")
def lower_binary(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Binary layers with constant weights become `insta.bitserial_conv2d_blocked`."""
    return _LowerBinary(mod, context).run()


class _LowerBinary(DenseAsImages):
    def __init__(self, mod: tvm.IRModule, context: Context) -> None:
        super().__init__(mod)
        self.lanes = context.target.lanes
        self.back_end = context.back_end
        self.report = context.report
        self.halves: dict[Expr, Expr] = {}  # expression -> one that is half of it
        self.rules = {
            "relax.insta.bitserial_conv2d": self._bitserial_conv2d,
            "relax.insta.bitserial_dense": self._bitserial_dense,
            "relax.astype": self._astype,
            "relax.multiply": self._multiply,
        }

    def visit(self, call: Call) -> Expr:
        rule = self.rules.get(op_name(call))
        result = rule(call) if rule is not None else None
        return call if result is None else result

    def _block_bits(
        self, weight: Array, channels: int, groups: int, bits: int
    ) -> tuple[Array, str]:
        """A packed weight in the target's own layout, or else in plain vectors of words.

        Also what is counted at a time, of `ops.bitserial_conv2d_blocked.COUNTS`.
        """
        own = self.back_end.binary_blocking(weight.shape[0], bits) if groups == 1 else None
        if own is None:
            own = Blocking("uint32", block_width(weight.shape[0], self.lanes))
        if own.counts == "nibbles":
            return packing.block_nibbles(weight, own.lanes, channels), own.counts
        if own.dtype == "uint32":
            return packing.block_weight(weight, own.lanes), own.counts
        return packing.block_pieces(weight, own.dtype, own.lanes, channels), own.counts

    def _bitserial_conv2d(self, call: Call) -> Expr | None:
        weight, image = array(call.args[1]), packed_image(self, call)
        if weight is None or image is None:
            return None
        data, attributes = call.args[0], ops.bitserial_conv2d.of(call)
        if any(attributes.padding):
            packed = self.calls[data]
            padded = replace(ops.threshold_pack.of(packed), pad=attributes.padding)
            data = self.emit(ops.threshold_pack.with_attributes(packed.args, padded))
        return self._blocked(data, weight, image, attributes)

    def _bitserial_dense(self, call: Call) -> Expr | None:
        weight = array(call.args[1])
        if weight is None:
            return None
        image = self.as_image(call.args[0])
        dense = ops.bitserial_dense.of(call)
        attributes = BitserialConv2d(
            in_channels=dense.in_channels,
            bits=dense.bits,
            encoding=dense.encoding,
            layers=dense.layers,
        )
        result = self._blocked(image, weight[:, None, None, :], [1, 1], attributes)
        half = self.halves.get(result)
        if half is None:
            return self.as_vector(result)
        return self._doubled(self.as_vector(half), const(2, "int32"))

    def _blocked(
        self, data: Expr, weight: Array, image: Sequence[int], attributes: BitserialConv2d
    ) -> Expr:
        groups, bits, encoding = attributes.groups, attributes.bits, attributes.encoding
        channels = attributes.in_channels // groups
        base, row_class, col_class = packing.border_tables(
            weight,
            image,
            strides=attributes.strides,
            padding=attributes.padding,
            dilation=attributes.dilation,
            in_channels_per_group=channels,
            bits=bits,
            encoding=encoding,
        )
        alpha = 2 if encoding == "bipolar" else 1
        if self._takes_runs(weight, row_class, col_class, attributes):
            base = packing.run_base(base, weight, bits, encoding)
            halve = alpha == 2 and not (base % 2).any()
            result = self.emit(
                ops.bitserial_conv2d_runs(
                    data,
                    const(packing.run_weight(weight), "uint32"),
                    const(base // 2 if halve else base, "int32"),
                    const(row_class, "int32"),
                    const(col_class, "int32"),
                    kernel_width=weight.shape[2],
                    strides=attributes.strides,
                    bits=bits,
                    alpha=1 if halve else alpha,
                    layers=attributes.layers,
                )
            )
            return self._doubled(result, const(2, "int32")) if halve else result
        blocked, counts = self._block_bits(weight, channels, groups, bits)
        halve = alpha == 2 and not (base % 2).any()
        result = self.emit(
            ops.bitserial_conv2d_blocked(
                data,
                const(blocked, str(blocked.dtype)),
                const(base // 2 if halve else base, "int32"),
                const(row_class, "int32"),
                const(col_class, "int32"),
                strides=attributes.strides,
                dilation=attributes.dilation,
                groups=groups,
                bits=bits,
                alpha=1 if halve else alpha,
                counts=counts,
                layers=attributes.layers,
            )
        )
        return self._doubled(result, const(2, "int32")) if halve else result

    def _takes_runs(
        self,
        weight: Array,
        row_class: Array,
        col_class: Array,
        attributes: BitserialConv2d,
    ) -> bool:
        """Whether the target multiplies matrices of bits here; the report says why it does not."""
        (down, right), (far, wide) = attributes.strides, attributes.dilation
        refused = self.back_end.refuses_matrix(
            PackedLayer(
                image=(len(row_class), len(col_class)),
                out_channels=weight.shape[0],
                kernel=(weight.shape[1], weight.shape[2]),
                words=weight.shape[3],
                bits=attributes.bits,
                strides=(down, right),
                dilation=(far, wide),
                groups=attributes.groups,
            )
        )
        if refused is not None and refused is not RefusedMatrix.NO_UNIT:
            for entry in self.report.named(attributes.layers):
                entry.add_note(f"popcounts: {refused.value}")
        return refused is None

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
