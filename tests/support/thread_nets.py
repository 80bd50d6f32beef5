"""Networks whose kernels have parallel loops of every kind, for the tests of threads."""

from __future__ import annotations

import tvm
from tvm import relax, s_tir, te

from tests.support import artefact_nets as nets

CHANNELS = 48


def conv_in_parts(batch: int | None) -> tvm.IRModule:
    """The convolution network; two parallel loops, a serial one, and scratch memory of each kind.

    The padded image is shared: one parallel loop fills it, the next reads it. The sums of a row
    are the thread's own: 8 * 48 * 16 floats would not fit the stack.
    """
    sch = s_tir.Schedule(nets.conv_net(batch, channels=CHANNELS))
    sch.work_on("fused_conv2d_add_relu_add1")
    pad, conv = sch.get_sblock("pad_temp"), sch.get_sblock("conv2d_nhwc")
    partial = sch.rfactor(sch.split(sch.get_loops(conv)[-1], [None, 16])[1], 4)
    sch.compute_at(partial, sch.get_loops(conv)[1], preserve_unit_loops=True)
    sch.parallel(sch.get_loops(pad)[1])
    sch.parallel(sch.get_loops(conv)[1])
    return sch.mod


def add_one(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x(*i) + 1.0, name="step")


def halve(x: te.Tensor) -> te.Tensor:
    return te.compute(x.shape, lambda *i: x(*i) * 0.5, name="step")


def many_loops(extent: int, count: int, step=add_one):
    """A function for `write_artefact`: `count` parallel loops of `extent` iterations each."""

    def make(batch: int | None) -> tvm.IRModule:
        def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
            for _ in range(count):
                x = builder.emit_te(step, x)
            return x

        mod = nets.network(batch, body, shape=(extent, 8), fuse=False)
        sch = s_tir.Schedule(mod)
        for var in mod.get_global_vars():
            if var.name_hint != "main":
                sch.work_on(var.name_hint)
                loops = sch.get_loops(sch.get_sblock("step"))
                sch.parallel(loops[1])
                sch.vectorize(loops[2])
        return sch.mod

    return make
