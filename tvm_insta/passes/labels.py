"""What each kernel call of ``main`` computes: an attribute of the call, down to the artefact.

Legalisation knows the operator and the layers that a call stands for, and fusion puts several calls
into one kernel. So each call of a kernel carries a label: the layers and the operators that it
computes. It belongs to the call, not to the kernel: equal layers share one PrimFunc, and code must
not depend on the names of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Call, GlobalVar, Op

from tvm_insta.ops.legalise import LEGALISATIONS
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Expr, names, op_name

PACKS = frozenset({"insta.threshold_pack", "insta.threshold_signs"})
"""Operators that compare with thresholds, and that `record_packs` lists."""

_LAYERS, _OPERATORS, _PACKS = "layers", "operators", "packs"


@dataclass(frozen=True)
class Label:
    """What a kernel call computes.

    Attributes:
        layers: names of layers in the report; none for a kernel that computes no layer.
        operators: names of Relax operators without "relax.", in the order of execution.
        packs: numbers of its comparisons in `Report.packs`; fusion moves calls past each other.
    """

    layers: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    packs: tuple[int, ...] = ()

    @staticmethod
    def of(call: Expr) -> Label:
        """The label of a call; an empty one where it has none."""
        if not _is_kernel_call(call):
            return Label()
        return Label(
            _listed(call.attrs, _LAYERS),
            _listed(call.attrs, _OPERATORS),
            tuple(int(number) for number in _listed(call.attrs, _PACKS)),
        )

    @staticmethod
    def joined(labels: Iterable[Label]) -> Label:
        """The label of a kernel that computes what all of these do."""
        every = list(labels)
        layers = dict.fromkeys(layer for label in every for layer in label.layers)
        return Label(
            tuple(layers),
            tuple(name for label in every for name in label.operators),
            tuple(number for label in every for number in label.packs),
        )

    def on(self, call: Call) -> Call:
        """The call with this label."""
        said = {_LAYERS: list(self.layers), _OPERATORS: list(self.operators)}
        if self.packs:
            said[_PACKS] = [str(number) for number in self.packs]
        attrs = tvm.ir.make_node("ir.DictAttrs", **said)
        return Call(call.op, list(call.args), attrs, call.ty_args)


@module_pass("Legalise")
def legalise(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """`relax.transform.LegalizeOps`; every kernel call gets a label."""
    numbers = itertools.count()  # calls are legalised in their order, in which packs were recorded
    found = {op_name(binding.value) for binding in _bindings(mod["main"])} - {"", "relax.call_tir"}
    table = {
        name: _labelling(rule, numbers)
        for name in sorted(found)
        if (rule := LEGALISATIONS.get(name) or Op.get(name).get_attr("FLegalize")) is not None
    }
    return relax.transform.LegalizeOps(table)(mod)


def kernel_calls(mod: tvm.IRModule) -> Iterator[Call]:
    """The calls of kernels in ``main``, in order."""
    for binding in _bindings(mod["main"]):
        if _is_kernel_call(binding.value):
            yield binding.value


def without_labels(mod: tvm.IRModule) -> tvm.IRModule:
    """The module as fusion takes it: kernels that differ in their labels only are one."""

    def plain(value: Expr) -> Expr:
        return _without(value) if _is_kernel_call(value) else value

    return _with_values(mod, [plain(binding.value) for binding in _bindings(mod["main"])])


def labelled(mod: tvm.IRModule, twin: tvm.IRModule) -> tvm.IRModule:
    """Give each kernel call of ``main`` the label of all that was fused into it.

    Args:
        mod: fused, without labels.
        twin: fused in the same way, with labels within the fused functions.
    """
    values = []
    for own, other in zip(_bindings(mod["main"]), _bindings(twin["main"]), strict=True):
        value = own.value
        if _is_kernel_call(value):
            value = _label_within(twin, other.value).on(value)
        values.append(value)
    return _with_values(mod, values)


def _labelling(
    rule: Callable[[relax.BlockBuilder, Call], Expr], numbers: Iterator[int]
) -> Callable[..., Expr]:
    def legalise_and_label(builder: relax.BlockBuilder, call: Call) -> Expr:
        made = rule(builder, call)
        if op_name(made) != "relax.call_tir":
            return made
        layers = _listed(call.attrs, _LAYERS)
        name = op_name(call).removeprefix("relax.")
        return Label(layers, (name,), (next(numbers),) if name in PACKS else ()).on(made)

    return legalise_and_label


def _listed(attrs: Any, key: str) -> tuple[str, ...]:
    """A list of names among the attributes of one of our calls; empty where there is none."""
    known = isinstance(attrs, tvm.ir.DictAttrs) and key in attrs.keys()
    return tuple(names(attrs[key])) if known else ()


def _label_within(mod: tvm.IRModule, call: Call) -> Label:
    """The label of a call of a PrimFunc, or of all calls in the fused function that it calls."""
    function = mod[call.op] if isinstance(call.op, GlobalVar) else None
    if not isinstance(function, relax.Function):
        return Label.of(call)
    return Label.joined(Label.of(binding.value) for binding in _bindings(function))


def _is_kernel_call(value: Expr) -> bool:
    if not isinstance(value, Call):
        return False
    return isinstance(value.op, GlobalVar) or op_name(value) == "relax.call_tir"


def _without(call: Call) -> Call:
    return Call(call.op, list(call.args), None, call.ty_args)


def _bindings(function: relax.Function) -> Iterator[Any]:
    for block in function.body.blocks:
        yield from block.bindings


def _with_values(mod: tvm.IRModule, values: list[Expr]) -> tvm.IRModule:
    """The module with other values of the bindings of ``main``, one for each, in order."""
    main, left, blocks = mod["main"], iter(values), []
    for block in main.body.blocks:
        bindings = [relax.VarBinding(binding.var, next(left)) for binding in block.bindings]
        dataflow = isinstance(block, relax.DataflowBlock)
        blocks.append((relax.DataflowBlock if dataflow else relax.BindingBlock)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    result = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    function = relax.Function(main.params, body, main.ty.ret, True, main.attrs)
    result.update_func(mod.get_global_var("main"), function)
    return relax.transform.Normalize()(result)
