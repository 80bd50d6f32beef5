"""Layers of the exported graph become operators that carry their identity; binary ones, planes.

A convolution or product whose input has few values and whose weights are planes of +-1 is written
as sums of products of packed codes with +-1 weights. With an activation ``base + step * code`` and
a weight ``sum_p factor[p] * B[p] + offset``,

    y = sum_p factor[p] * (step * layer(code, B[p]) + base * layer(1, B[p]))
        + offset * (step * layer(code, 1) + base * layer(1, 1))

where ``layer(1, B)`` is a constant, one number per output channel, or one per output element where
zeros are padded: zero padding is not ``base``. Inside the sum all numbers are integers where those
of the layer are, so that a sum which is 0 in PyTorch is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import fx

from tvm_insta.frontend.layers import Reason, SourceLayer, WhyFloat
from tvm_insta.frontend.sites import Site
from tvm_insta.frontend.torch.graph import (
    SOURCE,
    base_name,
    buffer,
    call,
    constant,
    shape_of,
    source_of,
)
from tvm_insta.frontend.torch.levels.behind import Behind, offset_behind, scale_behind
from tvm_insta.frontend.torch.levels.codes import Codes, codes_of
from tvm_insta.frontend.torch.levels.compared import compared
from tvm_insta.frontend.torch.levels.forms import Form, MatMul, form_of, of_one_image
from tvm_insta.frontend.torch.levels.lattice import Lattice
from tvm_insta.frontend.torch.levels.packer import Packer
from tvm_insta.frontend.torch.levels.products import Factor, factors_of
from tvm_insta.frontend.torch.levels.reasons import why_real
from tvm_insta.frontend.torch.levels.steps import Steps
from tvm_insta.frontend.torch.levels.values import Levels
from tvm_insta.frontend.torch.levels.weights import Planes, decompose
from tvm_insta.frontend.torch.levels.written_out import product_of_sum
from tvm_insta.frontend.torch.names import Names
from tvm_insta.frontend.torch.origin import source_line

_aten = torch.ops.aten

_LARGEST_UNIT = 256
_NAN_NOTE = "NaN counts as the lowest level of its input; PyTorch's quantiser gives it none of them"
_SAME_RATIO = 1e-6
"""Relative: the values of levels are float32, and evenly spaced to a few roundings."""


@dataclass
class Found:
    """What is known of a graph's layers and level tensors.

    Attributes:
        layers: every convolution and product, in the order of the graph.
        sites: by key, the level tensors that are packed.
    """

    layers: list[SourceLayer] = field(default_factory=list)
    sites: dict[str, Site] = field(default_factory=dict)


def rewrite_layers(module: fx.GraphModule, *, prefix: str = "") -> Found:
    """Give every layer its identity and write binary ones as sums of planes, in place.

    Args:
        module: a graph after `normalise`.
        prefix: is taken off the names of layers.
    """
    work = _Rewrite(module, prefix)
    work.run()
    return work.found


class _Rewrite:
    def __init__(self, module: fx.GraphModule, prefix: str) -> None:
        self.module = module
        self.prefix = prefix
        self.levels = Levels()
        self.names = Names()
        self.found = Found()
        self.packer = Packer(self.levels, self.found.sites)

    def run(self) -> None:
        graph = self.module.graph
        for each in list(graph.nodes):
            node = product_of_sum(each, self.levels) or each
            form = form_of(node)
            if form is None:
                if base_name(node) == "aten.convolution":
                    self._not_packed(node)
                continue
            result = self._layer(node, form)
            result.meta[SOURCE] = source_of(node)  # a threshold may compare the layer's own result
            node.replace_all_uses_with(result)
            graph.erase_node(node)
        graph.eliminate_dead_code()
        self.module.recompile()

    def _not_packed(self, node: fx.Node) -> None:
        """Report a convolution of another number of dimensions than two; it stays as it is."""
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        channels, *image = shape_of(node)[1:]
        out, *rest = shape_of(weight)
        shape = tuple(of_one_image(dim) for dim in (*image, channels))
        taps = math.prod(int(dim) for dim in rest)
        reason = f"convolutions of {len(image)} dimensions are not packed"
        self.found.layers.append(
            SourceLayer(
                name=self.names.of(node, weight).removeprefix(self.prefix),
                op=f"conv{len(image)}d",
                line=source_line(node),
                macs=math.prod(shape) * taps,
                weight_shape=(int(out), *(int(dim) for dim in (*rest[1:], rest[0]))),
                output_shape=shape,
                why_float=(WhyFloat(Reason.DIMENSIONS, reason),),
            )
        )

    def _product(self, node: fx.Node, form: MatMul, name: str) -> fx.Node:
        """A product of two computed tensors: packed where both have few values."""
        found = factors_of(form, self.levels)
        packed = [each for each in found if isinstance(each, Factor)]
        if packed:
            sides = [self.packer.factor(node, factor) for factor in packed]
            result = call(node, torch.ops.tvm_insta.product.default, (*sides, name))
            result = _with_offsets(node, form, packed, result)
        else:
            result = form.apply(node, form.data, form.weight, name)
        bits = [each.codes.bits for each in packed] or [0, 0]
        self.found.layers.append(
            SourceLayer(
                name=name,
                op=form.op,
                line=source_line(node),
                macs=form.macs(node),
                weight_shape=form.weight_shape(),
                output_shape=form.output_shape(node),
                why_float=tuple(each for each in found if isinstance(each, WhyFloat)),
                bits=bits[0],
                weight_bits=bits[1],
                planes=bits[0] * bits[1],
                notes=self._notes(*(each.steps for each in packed)),
            )
        )
        return result

    def _notes(self, *several: Steps) -> tuple[str, ...]:
        """What the report says of layers of these levels."""
        none = any(each.nan is None and not self.levels.never_nan(each.x) for each in several)
        return (_NAN_NOTE,) if none else ()

    def _layer(self, node: fx.Node, form: Form) -> fx.Node:
        name = self.names.of(node, form.weight).removeprefix(self.prefix)
        if isinstance(form, MatMul):
            return self._product(node, form, name)
        data, steps, behind = self._taken_off(node, form)
        weight = constant(form.weight) if isinstance(form.weight, fx.Node) else None
        planes = None if weight is None else decompose(weight)
        reasons: list[WhyFloat] = []
        if weight is None:
            reasons.append(
                WhyFloat(Reason.COMPUTED_WEIGHTS, "its weights are computed from the input")
            )
        elif isinstance(planes, WhyFloat):
            reasons.append(planes)
        if steps is None:
            reasons.append(why_real(data, self.levels))
        codes = None if steps is None else codes_of(steps)
        if isinstance(codes, WhyFloat):
            reasons.append(codes)
        notes: tuple[str, ...] = ()
        if not reasons and isinstance(planes, Planes) and isinstance(codes, Codes) and steps:
            result = self._binary(node, form, data, steps, codes, planes, name)
            notes = self._notes(steps)
            if planes.single and codes.plain:
                self.levels.lattices.enter(result, _lattice(node, form, codes, planes))
            for each in reversed(behind):
                result = each.apply(node, result)
        else:
            planes = codes = None
            result = form.apply(node, form.data, form.weight, name)
        self.found.layers.append(
            SourceLayer(
                name=name,
                op=form.op,
                line=source_line(node),
                macs=form.macs(node),
                weight_shape=form.weight_shape(),
                output_shape=form.output_shape(node),
                why_float=tuple(reasons),
                bits=codes.bits if isinstance(codes, Codes) else 0,
                weight_bits=planes.bits if isinstance(planes, Planes) else 0,
                planes=_count(planes) if isinstance(planes, Planes) else 0,
                notes=notes,
            )
        )
        if form.bias is None:
            return result
        return call(node, _aten.add.Tensor, (result, form.shaped_bias(node)))

    def _taken_off(self, node: fx.Node, form: Form) -> tuple[fx.Node, Steps | None, list[Behind]]:
        """The level tensor in a layer's input, and what is done behind the layer instead.

        Without levels: the input but for its scales.
        """
        data, behind = form.data, list[Behind]()
        real: fx.Node | None = None
        while True:
            while (scale := scale_behind(form, node, data)) is not None:
                behind.append(scale)
                data = scale.data
            real = real or data
            steps = compared(data, self.levels)
            offset = offset_behind(form, node, data) if steps is None else None
            if offset is None:
                return (real if steps is None else data), steps, behind
            behind.append(offset)
            data = offset.data

    def _binary(
        self,
        node: fx.Node,
        form: Form,
        data: fx.Node,
        steps: Steps,
        codes: Codes,
        planes: Planes,
        name: str,
    ) -> fx.Node:
        assert isinstance(form.weight, fx.Node)
        if planes.single and codes.plain:
            packed = self.packer.packed(form, data, steps, codes, own_values=True)
            weight = planes.factors[0].to(torch.float32)
            signs = torch.where(planes.signs[0], 1.0, -1.0)
            exact = constant(form.weight)
            scaled = signs * weight.reshape(-1, *[1] * (signs.ndim - 1))
            same = exact is not None and torch.equal(exact, scaled)
            return form.apply(
                node, packed, form.weight if same else buffer(node, scaled, "weight"), name
            )
        packed = self.packer.packed(form, data, steps, codes, own_values=False)
        first = planes.factors[0]
        total: fx.Node | None = None
        ones = torch.ones_like(planes.signs[0][:1], dtype=torch.float32)
        unit = torch.ones_like(first)
        for signs, factor in zip(planes.signs, planes.factors, strict=True):
            plane = torch.where(signs, 1.0, -1.0)
            ratio = torch.where(first > 0, factor / first.clamp_min(1e-300), 0.0)
            term = self._term(node, form, packed, plane, codes, ratio, name)
            total = term if total is None else call(node, _aten.add.Tensor, (total, term))
        if bool(planes.offset.any()):
            ratio = torch.where(first > 0, planes.offset / first.clamp_min(1e-300), 0.0)
            # One sum serves all output channels; those of several groups sum other channels each.
            whole = ones if form.groups == 1 else torch.ones_like(planes.signs[0], dtype=ones.dtype)
            term = self._term(node, form, packed, whole, codes, ratio, name)
            total = call(node, _aten.add.Tensor, (total, term))
        assert total is not None
        scale = first * codes.factor / _as_fraction(codes.base / codes.factor)[1] * unit
        if bool((scale == 1).all()):
            return total
        return call(node, _aten.mul.Tensor, (total, buffer(node, form.per_channel(scale), "scale")))

    def _term(
        self,
        node: fx.Node,
        form: Form,
        packed: fx.Node,
        plane: torch.Tensor,
        codes: Codes,
        ratio: torch.Tensor,
        name: str,
    ) -> fx.Node:
        """Give ``ratio * q * (layer(code, B) + base / factor * layer(1, B))``.

        q is the denominator of ``base / factor``, see `_as_fraction`.
        """
        result = form.apply(node, packed, buffer(node, plane, "plane"), name)
        if codes.base != 0.0:
            steps, units = _as_fraction(codes.base / codes.factor)
            constant_part = form.of_ones(plane) * steps
            if units != 1:
                result = call(node, _aten.mul.Tensor, (result, units))
            result = call(
                node,
                _aten.add.Tensor,
                (result, buffer(node, constant_part.to(torch.float32), "map")),
            )
        if bool((ratio == 1).all()):
            return result
        shaped = form.per_channel(ratio)
        return call(node, _aten.mul.Tensor, (result, buffer(node, shaped, "ratio")))


def _with_offsets(
    node: fx.Node, form: MatMul, factors: Sequence[Factor], product: fx.Node
) -> fx.Node:
    """The product of both factors from that of what was packed of them, see `products`."""
    assert isinstance(form.weight, fx.Node)
    first, second = (factor.offset for factor in factors)
    for offset, other, summed in ((first, form.weight, -2), (second, form.data, -1)):
        if offset:
            sums = call(node, _aten.sum.dim_IntList, (other, [summed], True))
            scaled = call(node, _aten.mul.Tensor, (sums, offset))
            product = call(node, _aten.add.Tensor, (product, scaled))
    if first and second:
        both = first * second * int(shape_of(form.data)[-1])
        product = call(node, _aten.sub.Tensor, (product, both))
    return product


def _as_fraction(ratio: float) -> tuple[float, int]:
    """A ratio as (p, q), p / q, with whole numbers where it is such a fraction, else (ratio, 1).

    Sums of whole numbers are exact: what is 0 in PyTorch, 0.25 * 4 - 1, is 0 here.
    """
    near = Fraction(ratio).limit_denominator(_LARGEST_UNIT)
    if abs(float(near) - ratio) <= _SAME_RATIO * abs(ratio):
        return float(near.numerator), near.denominator
    return ratio, 1


def _lattice(node: fx.Node, form: Form, codes: Codes, planes: Planes) -> Lattice:
    """The integers that a layer of one plane gives, and what they are multiplied by."""
    taps = planes.signs[0][0].numel()
    unit = planes.factors[0] * codes.factor
    largest = (2**codes.bits - 1) * taps
    odd = codes.bipolar and taps % 2 == 1 and not form.pads
    axis = len(shape_of(node)) - 1 if form.channels_last else 1
    return Lattice(unit, torch.zeros_like(unit), largest, odd, axis)


def _count(planes: Planes) -> int:
    return len(planes.signs) + bool(planes.offset.any())
