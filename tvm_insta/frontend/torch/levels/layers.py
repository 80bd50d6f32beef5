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
from tvm_insta.frontend.torch.levels.codes import Codes, codes_of
from tvm_insta.frontend.torch.levels.compared import compared, roots_of
from tvm_insta.frontend.torch.levels.forms import Form, form_of, of_one_image
from tvm_insta.frontend.torch.levels.lattice import Lattice
from tvm_insta.frontend.torch.levels.reasons import why_real
from tvm_insta.frontend.torch.levels.steps import Steps
from tvm_insta.frontend.torch.levels.values import Levels
from tvm_insta.frontend.torch.levels.weights import Planes, decompose
from tvm_insta.frontend.torch.names import Names, source_line

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
        self.packed: dict[tuple[fx.Node, bool, bool], fx.Node] = {}

    def run(self) -> None:
        graph = self.module.graph
        for node in list(graph.nodes):
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

    def _layer(self, node: fx.Node, form: Form) -> fx.Node:
        name = self.names.of(node, form.weight).removeprefix(self.prefix)
        scale, data = _scale_behind(form, node)
        steps = compared(data, self.levels)
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
        if steps is not None and steps.nan is None and not self.levels.never_nan(steps.x):
            notes = (_NAN_NOTE,)
        if not reasons and isinstance(planes, Planes) and isinstance(codes, Codes) and steps:
            result = self._binary(node, form, data, steps, codes, planes, name)
            if planes.single and codes.plain:
                self.levels.lattices.enter(result, _lattice(node, form, codes, planes))
            if scale is not None:
                result = call(node, _aten.mul.Tensor, (result, scale))
        else:
            planes, codes, notes = None, None, ()
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
            packed = self._packed(form, data, steps, codes, own_values=True)
            weight = planes.factors[0].to(torch.float32)
            signs = torch.where(planes.signs[0], 1.0, -1.0)
            exact = constant(form.weight)
            scaled = signs * weight.reshape(-1, *[1] * (signs.ndim - 1))
            same = exact is not None and torch.equal(exact, scaled)
            return form.apply(
                node, packed, form.weight if same else buffer(node, scaled, "weight"), name
            )
        packed = self._packed(form, data, steps, codes, own_values=False)
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

    def _packed(
        self, form: Form, data: fx.Node, steps: Steps, codes: Codes, *, own_values: bool
    ) -> fx.Node:
        """The levels operator, once for all layers that read the tensor."""
        last = form.channels_last
        key = (data, own_values, last)
        if key in self.packed:
            return self.packed[key]
        site = f"{source_of(data) or data.name}"
        thresholds = [
            t if isinstance(t, fx.Node) else buffer(data.next, t, "threshold")
            for t in codes.thresholds
        ]
        base, step = codes.integers
        if own_values:
            base, step = base * codes.factor, step * codes.factor
        before = _behind(data, steps.x, thresholds)
        made = call(
            before,
            torch.ops.tvm_insta.levels.default,
            (steps.x, thresholds, base, step, codes.compare, codes.nan, last, site),
        )
        own = source_of(steps.x)
        direct = bool(own) and steps.x is not data
        self.found.sites[site] = Site(
            compared=own if direct else None,
            roots=(own,) if direct else roots_of(data, self.levels),
            result=source_of(data),
            base=codes.value_base,
            step=codes.value_step,
            axes=(0, 3, 1, 2)
            if not last and len(shape_of(data)) == 4
            else tuple(range(len(shape_of(data)))),
        )
        self.packed[key] = made
        return made


def _behind(data: fx.Node, *sources: object) -> fx.Node:
    """The node in front of which a function of these tensors may stand, as early as possible."""
    order = {node: at for at, node in enumerate(data.graph.nodes)}
    flat: list[fx.Node] = []
    for source in sources:
        flat += [source] if isinstance(source, fx.Node) else list(source)  # type: ignore[call-overload]
    last = max([data, *flat], key=order.__getitem__)
    return last.next


def _scale_behind(form: Form, node: fx.Node) -> tuple[fx.Node | None, fx.Node]:
    """``layer(s * x)`` as ``s * layer(x)``: (s, x), or (None, the layer's input) where it is not.

    For one number per image, as XNOR-Net scales; and one per channel in front of a depthwise layer.
    """
    data = form.data
    if base_name(data) != "aten.mul" or len(shape_of(data)) != 4:
        return None, data
    for scale, x in (data.args, reversed(data.args)):
        if not isinstance(scale, fx.Node) or not isinstance(x, fx.Node):
            continue
        if shape_of(x) != shape_of(data):
            continue
        value = constant(scale)
        if value is None and shape_of(scale)[1:] == [1, 1, 1]:
            return scale, x
        channels = shape_of(x)[1]
        if value is not None and form.groups == channels and value.numel() == channels:
            if list(value.shape)[-3:] == [channels, 1, 1]:
                each = value.flatten().repeat_interleave(shape_of(form.weight)[0] // channels)
                return buffer(node, form.per_channel(each), "scale"), x
    return None, data


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
