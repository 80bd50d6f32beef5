"""Kernels are scheduled by the back end's rules, with tiles from the tuner where there are some."""

from __future__ import annotations

from tests.passes.scripts import RELU, check, module, with_labels
from tvm_insta.passes.context import Context
from tvm_insta.passes.labels import legalise
from tvm_insta.passes.schedule import schedule
from tvm_insta.schedules import ConvTiles, ScheduleRecord
from tvm_insta.target import parse

MAIN = """
@R.function
def main(x: R.Tensor((1, 2, 2, 4), "float32")) -> R.Tensor((1, 2, 2, 4), "float32"):
    cls = Module
    with R.dataflow():
        y = R.call_tir(cls.relu, (x,), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        R.output(y)
    return y
"""
VECTORS = """
@T.prim_func(private=True, s_tir=True)
def relu(
    x: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
    y: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
):
    T.func_attr({"op_pattern": 0})
    for i, j, c_0 in T.grid(T.int64(2), T.int64(2), T.int64(1)):
        for c_1 in T.vectorized(T.int64(4)):
            with T.sblock("relu"):
                v_i, v_j = T.axis.remap("SS", [i, j])
                v_c = T.axis.spatial(T.int64(4), c_0 * T.int64(4) + c_1)
                y[0, v_i, v_j, v_c] = T.max(T.float32(0), x[0, v_i, v_j, v_c])
"""
TARGET = parse("llvm -mtriple=x86_64-linux-gnu -mcpu=haswell")


def test_an_elementwise_kernel_in_vectors():
    label, context = ([], ["nn.relu"]), Context(TARGET)
    expected = with_labels(module(VECTORS, MAIN), label)
    check(schedule, with_labels(module(RELU, MAIN), label), expected, context)
    assert context.report.schedules == [ScheduleRecord("relu", "elementwise")]


CONV = """
@R.function
def main(
    x: R.Tensor((1, 2, 2, 4), "float32"), w: R.Tensor((1, 1, 1, 4, 4), "float32")
) -> R.Tensor((1, 2, 2, 4), "float32"):
    with R.dataflow():
        y = R.insta.conv2d_blocked(x, w)
        R.output(y)
    return y
"""


def test_tiles_are_chosen_for_the_module_as_it_comes():
    mod, seen, wish = legalise(module(CONV)), [], ConvTiles(width_tile=1, out_tile=1, row_band=1)

    def choose(given):
        seen.append(given)
        return {"conv2d_blocked": wish}

    found = {}
    for name, context in (
        ("tuned", Context(TARGET, choose_tiles=choose)),
        ("own", Context(TARGET)),
    ):
        schedule(mod, context)
        (record,) = context.report.schedules
        assert (record.rule, record.reason) == ("insta_fconv", "")
        found[name] = record.tiles
    assert found["tuned"] == wish != found["own"]
    assert len(seen) == 1 and seen[0].same_as(mod)
