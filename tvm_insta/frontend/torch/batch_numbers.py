"""Numbers in an exported graph that depend on the batch's size: constants, nothing, or refused.

Forward computes ``x.sum() / x.numel() * x.shape[0]`` or, as LSQ does, scales gradients by
``1 / sqrt(x.numel())``. For each number that an operator reads, its values for several batches are
known: from the symbols in the graph, and, where Python wanted numbers, from graphs traced with
other batches (`batch_trace`). Then

- a number that is the same for every batch is a constant;
- ``(s - s * g) + s * g`` is s whatever g is: sums and multiples of one tensor are followed with a
  factor for each batch, and where the factor is the same for every batch it is what is compiled;
- with any other number the answer depends on how many images there are. It is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.batch_values import BatchValues, alike
from tvm_insta.frontend.torch.graph import base_name, buffer, call, is_tensor
from tvm_insta.frontend.torch.operators.refusal import where

_aten = torch.ops.aten
Vector = tuple[float, ...]
"""One number for each batch."""

_ROUNDING = 1e-6
"""What is left of a factor that cancels, relative to 1."""

_SAME = frozenset(
    f"aten.{name}" for name in "alias clone detach detach_ lift_fresh_copy contiguous".split()
)
_ASSERTIONS = frozenset(
    f"aten.{name}"
    for name in (
        "_assert_scalar _assert_tensor_metadata _assert_async sym_constrain_range "
        "sym_constrain_range_for_size"
    ).split()
)
_NUMBERS = ("number", "float", "Tensor")
"""In the types of a schema: what is computed with. Sizes and indices are of other types."""


def settle_batch_numbers(
    graph: fx.GraphModule,
    batches: Sequence[int],
    others: Sequence[fx.GraphModule] = (),
    line: str = "",
) -> None:
    """Replace the numbers that depend on the batch in a decomposed graph, in place.

    Args:
        graph: see `BatchValues`.
        batches: see `BatchValues`.
        others: see `BatchValues`.
        line: see `BatchValues`.

    Raises:
        ImportModelError: the answer depends on the size of the batch; one sentence with the line.
    """
    if not others and not any(_symbols_read(node) for node in graph.graph.nodes):
        return
    values = BatchValues(graph, batches, others, line)
    forms = _Forms(values)
    for node in list(graph.graph.nodes):
        found = forms.multiple(node)
        if found is not None:
            node.replace_all_uses_with(found)
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        if node not in values.of and base_name(node) not in _ASSERTIONS:
            _settle(node, values)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _symbols_read(node: fx.Node) -> list[tuple[int | str, fx.Node]]:
    """Operands of a call that are symbols where it computes with numbers, not sizes."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return []
    found: list[tuple[int | str, fx.Node]] = []
    arguments = node.target._schema.arguments
    given: list[tuple[int | str, Any, Any]] = [
        *((at, own, value) for at, (own, value) in enumerate(zip(arguments, node.args))),  # noqa: B905
        *((own.name, own, node.kwargs.get(own.name)) for own in arguments),
    ]
    for key, own, value in given:
        if isinstance(value, fx.Node) and not is_tensor(value):
            if isinstance(value.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
                if any(each in str(own.type) for each in _NUMBERS):
                    found.append((key, value))
    return found


def _settle(node: fx.Node, values: BatchValues) -> None:
    """Write constants where an operator reads symbols that are the same for every batch."""
    tensors = [each for each in node.all_input_nodes if is_tensor(each)]
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        if values.literals_differ(node) or any(map(values.differs, tensors)):
            raise _refused(node)
    for each in tensors:
        if each in values.of and values.made_of_sizes(each):
            node.replace_input_with(each, buffer(node, values.of[each][0], "number"))
    for key, symbol in _symbols_read(node):
        if symbol not in values.of:
            raise ImportModelError(
                f"{where(node)}computes with a number that depends on the values of the input: "
                "compute with tensors, or choose with torch.where"
            )
        if values.differs(symbol):
            raise _refused(node)
        number = values.of[symbol][0]
        if isinstance(key, int):
            node.update_arg(key, number)
        else:
            node.update_kwarg(key, number)


def _refused(node: fx.Node) -> ImportModelError:
    return ImportModelError(
        f"{where(node)}computes with a number that depends on the size of the batch, so that an "
        "image's answer would depend on how many others there are: divide the number by "
        "x.shape[0], take means over named dimensions, or compile with max_batch=1"
    )


@dataclass(frozen=True)
class _Form:
    """A tensor as a sum of multiples of others.

    Attributes:
        terms: factors by tensor.
        differs: a factor on the way was another one for each batch.
    """

    terms: dict[fx.Node, Vector]
    differs: bool = False


class _Forms:
    def __init__(self, values: BatchValues) -> None:
        self.values = values
        self.ones: Vector = (1.0,) * len(values.batches)
        self.forms: dict[fx.Node, _Form] = {}
        self.classes: dict[Any, fx.Node] = {}

    def multiple(self, node: fx.Node) -> fx.Node | None:
        """What a node is for every batch, where numbers of the batch cancel in it."""
        self.forms[node] = form = self._form(node)
        left = {
            term: factor
            for term, factor in form.terms.items()
            if any(not abs(each) <= _ROUNDING for each in factor)
        }
        if not form.differs or len(left) != 1:
            return None
        ((term, factor),) = left.items()
        if not alike(factor) or not _same_kind(term, node):
            return None
        if abs(factor[0] - 1.0) <= _ROUNDING:
            return term
        made = call(node, _aten.mul.Tensor, (term, factor[0]))
        self.forms[made] = _Form({made: self.ones})
        return made

    def _form(self, node: fx.Node) -> _Form:
        name = base_name(node)
        if not is_tensor(node) or not name:
            return _Form({self._first_of_class(node): self.ones})
        if name in _SAME and isinstance(node.args[0], fx.Node):
            return self.forms[node.args[0]]
        if name in ("aten.add", "aten.sub") and not node.kwargs:
            if all(map(is_tensor, node.args)):
                left, right = (self.forms[each] for each in node.args)  # type: ignore[index]
                return _sum(left, right, 1.0 if name == "aten.add" else -1.0)
        if name in ("aten.mul", "aten.div") and not node.kwargs:
            sides = ((0, 1), (1, 0)) if name == "aten.mul" else ((0, 1),)
            for x, other in sides:
                factor = self._factor(node, other)
                if factor is not None and is_tensor(node.args[x]):
                    if name == "aten.div":
                        factor = tuple(1.0 / each if each else math.nan for each in factor)
                    return _scaled(self.forms[node.args[x]], factor)  # type: ignore[index]
        return _Form({self._first_of_class(node): self.ones})

    def _factor(self, node: fx.Node, position: int) -> Vector | None:
        """The number that an operand is, for each batch; None for parameters and other tensors."""
        operand = node.args[position]
        if isinstance(operand, fx.Node):
            if is_tensor(operand) and not self.values.differs(operand):
                return None
            found = self.values.of.get(operand)
        else:
            found = self.values.literals(node, position)
        if found is None or not all(isinstance(each, (int, float, torch.Tensor)) for each in found):
            return None
        return tuple(float(each) for each in found)

    def _first_of_class(self, node: fx.Node) -> fx.Node:
        """The first node that computes the same, so that what is written twice cancels."""
        if node.op != "call_function":
            return node
        leaves, spec = _pytree.tree_flatten((node.args, node.kwargs))
        known = [
            id(self._same(each)) if isinstance(each, fx.Node) else repr(each) for each in leaves
        ]
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        key = id(node) if random else (str(node.target), str(spec), *known)
        return self.classes.setdefault(key, node)

    def _same(self, node: fx.Node) -> fx.Node:
        form = self.forms.get(node)
        if form is not None and len(form.terms) == 1 and [*form.terms.values()] == [self.ones]:
            return next(iter(form.terms))
        return node


def _sum(left: _Form, right: _Form, sign: float) -> _Form:
    terms = dict(left.terms)
    for term, factor in right.terms.items():
        before = terms.get(term, (0.0,) * len(factor))
        terms[term] = tuple(a + sign * b for a, b in zip(before, factor, strict=True))
    return _Form(terms, left.differs or right.differs)


def _scaled(form: _Form, factor: Vector) -> _Form:
    terms = {
        term: tuple(a * b for a, b in zip(own, factor, strict=True))
        for term, own in form.terms.items()
    }
    return _Form(terms, form.differs or not alike(factor))


def _same_kind(term: fx.Node, node: fx.Node) -> bool:
    own, other = term.meta["val"], node.meta["val"]
    return bool(own.dtype == other.dtype and str(own.shape) == str(other.shape))
