"""Violations of each kind, planted in a module and named by the verifier."""

from __future__ import annotations

import pytest
import torch
import tvm
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from tests.passes.networks import insert, phases, tiny_resnet
from tvm_insta import ops
from tvm_insta.errors import VerifyError
from tvm_insta.passes.fold_scales import fold_scales
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.pipeline import PHASES
from tvm_insta.passes.rewriter import Rewriter, op_name
from tvm_insta.passes.verify import VOCABULARIES, verify

IMAGE = relax.TensorType([1, 4, 4, 8], "float32")
WEIGHT = relax.TensorType([8, 3, 3, 8], "float32")


def module(make, *types, result=None):
    """A module whose ``main`` is one call; `result` overrules the type that it infers."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{at}", ty) for at, ty in enumerate(types)]
    with builder.function("main", params):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(make(*params)))
        builder.emit_func_output(output)
    mod = builder.get()
    if result is None:
        return mod
    (block,) = mod["main"].body.blocks
    var = relax.DataflowVar("y", result)
    first = relax.VarBinding(var, block.bindings[0].value)
    body = relax.SeqExpr([relax.DataflowBlock([first])], var)
    return IRModule({"main": relax.Function(params, body, result, True)})


def conv2d(**attributes):
    return lambda x, w: ops.conv2d(x, w, **{"layers": ["conv"], **attributes})


def with_attrs(call, drop=(), **changed):
    """The call with other attributes, unchecked."""
    old = {} if call.attrs is None else {key: call.attrs[key] for key in call.attrs.keys()}
    kept = {key: value for key, value in old.items() if key not in drop}
    attrs = tvm.ir.make_node("ir.DictAttrs", **{**kept, **changed})
    return relax.Call(call.op, list(call.args), attrs, call.ty_args)


def altered(mod, **options):
    """The module whose only call has other attributes."""
    main = mod["main"]
    (block,) = main.body.blocks
    bindings = [
        relax.VarBinding(b.var, with_attrs(b.value, **options) if at == 0 else b.value)
        for at, b in enumerate(block.bindings)
    ]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], main.body.body)
    function = relax.Function(main.params, body, main.ty.ret, True, main.attrs)
    return IRModule({"main": function})


def test_every_phase_has_a_vocabulary():
    assert tuple(VOCABULARIES) == PHASES


def test_a_good_module_passes():
    verify(module(conv2d(), IMAGE, WEIGHT), "to_nhwc")


def test_an_operator_unknown_to_the_phase():
    mod = module(conv2d(), IMAGE, WEIGHT)
    with pytest.raises(VerifyError, match=r"phase fuse .* relax.insta.conv2d is called where only"):
        verify(mod, "fuse")
    mod = module(ops.moments, IMAGE)
    with pytest.raises(VerifyError, match=r"after phase simplify .* insta.moments is unknown"):
        verify(mod, "simplify")


def test_an_operator_that_an_earlier_phase_has_replaced():
    mod = module(lambda x: relax.op.nn.dropout(x, 0.5), IMAGE)
    verify(mod, "imported")
    with pytest.raises(VerifyError, match=r"relax.nn.dropout should have been replaced"):
        verify(mod, "simplify")


def test_a_layer_with_a_constant_weight_that_was_not_lowered():
    def constant(x):
        return ops.conv2d(x, relax.const([[[[1.0] * 8] * 3] * 3] * 8), layers=["conv"])

    verify(module(conv2d(), IMAGE, WEIGHT), "lower")  # of a computed weight
    with pytest.raises(VerifyError, match="should have been lowered"):
        verify(module(constant, IMAGE), "lower")


def test_a_layer_without_its_name():
    with pytest.raises(VerifyError, match=r"insta.conv2d names no layer"):
        verify(module(conv2d(layers=[]), IMAGE, WEIGHT), "to_nhwc")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "8 input channels do not split into groups=3"),
        ({"strides": [0, 1]}, r"strides is \[0, 1\]; pass 2 integers of at least 1"),
        ({"stride": 2}, "stride is no attribute; pass one of .*strides"),
        ({"drop": ["padding"]}, "padding is missing"),
    ],
)
def test_attributes_that_the_operator_does_not_allow(changes, message):
    mod = altered(module(conv2d(), IMAGE, WEIGHT), **changes)
    with pytest.raises(VerifyError, match=message):
        verify(mod, "to_nhwc")


@pytest.mark.parametrize(
    "ty",
    [
        relax.TensorType([1, 2, 2, 9], "float32"),
        relax.TensorType([1, 2, 2, 8], "int32"),
        relax.TensorType([1, 2, 8], "float32"),
    ],
    ids=["shape", "dtype", "rank"],
)
def test_a_type_that_is_not_what_the_operator_gives(ty):
    mod = module(conv2d(), IMAGE, WEIGHT, result=ty)
    with pytest.raises(VerifyError, match=r"but relax\.insta\.conv2d gives"):
        verify(mod, "to_nhwc")
    mod = module(relax.op.abs, IMAGE, result=ty)
    with pytest.raises(VerifyError, match=r"but relax\.abs gives"):
        verify(mod, "to_nhwc")


def test_a_variable_that_is_read_and_not_bound():
    x, stranger = relax.Var("x", IMAGE), relax.Var("stranger", IMAGE)
    body = relax.SeqExpr([], stranger)
    mod = IRModule({"main": relax.Function([x], body, IMAGE, True)})
    with pytest.raises(VerifyError, match="after phase imported the module is not well-formed"):
        verify(mod, "imported")


@I.ir_module
class Kernel:
    @T.prim_func(private=True, s_tir=True)
    def double(
        x: T.Buffer((T.int64(4),), "float32"), y: T.Buffer((T.int64(4),), "float32")
    ) -> None:
        for i in range(T.int64(4)):
            with T.sblock("double"):
                v_i = T.axis.spatial(T.int64(4), i)
                y[v_i] = x[v_i] * T.float32(2)

    @R.function
    def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
        cls = Kernel
        with R.dataflow():
            y = R.call_tir(cls.double, (x,), R.Tensor((4,), "float32"))
            R.output(y)
        return y


def kernel_call(change):
    """`Kernel` with another call of its kernel."""
    main = Kernel["main"]
    (block,) = main.body.blocks
    (binding,) = block.bindings
    made = relax.VarBinding(binding.var, change(binding.value))
    body = relax.SeqExpr([relax.DataflowBlock([made])], main.body.body)
    functions = {var: f for var, f in Kernel.functions.items() if var.name_hint != "main"}
    mod = IRModule(functions)
    mod["main"] = relax.Function(main.params, body, main.ty.ret, True)
    return mod


def test_a_kernel_call_passes():
    verify(Kernel, "fuse")


def test_a_kernel_with_other_parameters():
    def more(call):
        args = relax.Tuple([*call.args[1].fields, *call.args[1].fields])
        return relax.Call(call.op, [call.args[0], args], call.attrs, call.ty_args)

    with pytest.raises(VerifyError, match="double has 2 parameters, but the call gives it 3"):
        verify(kernel_call(more), "schedule")


def test_a_kernel_of_other_dtypes():
    def other(call):
        return relax.Call(call.op, list(call.args), call.attrs, [relax.TensorType([4], "float16")])

    with pytest.raises(VerifyError, match="parameter 1 of kernel double is float32 of rank 1"):
        verify(kernel_call(other), "fuse")


def test_a_kernel_that_computes_a_layer_and_does_not_say_which():
    def labelled(call):
        return with_attrs(call, layers=[], operators=["insta.conv2d_blocked", "nn.relu"])

    with pytest.raises(VerifyError, match=r"computes insta\.conv2d_blocked, but names no layer"):
        verify(kernel_call(labelled), "fuse")


def test_the_pipeline_of_the_tests_verifies(monkeypatch):
    """A pass that loses a layer's name is caught behind its phase."""

    @module_pass("LoseNames")
    def lose(mod, _):
        class Lose(Rewriter):
            def visit(self, call):
                layer = op_name(call) == "relax.insta.bitserial_conv2d"
                return with_attrs(call, layers=[]) if layer else call

        return Lose(mod).run()

    insert(monkeypatch, fold_scales, lose)
    with pytest.raises(VerifyError, match=r"after phase fold_scales .* names no layer"):
        phases(tiny_resnet(), torch.zeros(1, 3, 16, 16))
