"""What the other rooms build on: TVMScript, PrimFunc and block names, fusion, symbolic batch."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, tirx

from tvm_insta import ops
from tvm_insta.errors import InstaError, OpError
from tvm_insta.ops import packing, reference


def tensor(*shape, dtype="float32"):
    return relax.TensorType(list(shape), dtype)


N = tirx.Var("n", "int64")
U = "uint32"

# One call of every operator, with no attribute at its default.
CALLS = {
    "threshold_pack": (
        ops.threshold_pack,
        [tensor(N, 4, 4, 40), tensor(3, N, 1, 1, 40)],
        dict(bits=2, compare="lt", groups=2, pad=[1, 0, 2, 1]),
    ),
    "threshold_signs": (
        ops.threshold_signs,
        [tensor(N, 4, 4, 40), tensor(1, N, 1, 1, 40)],
        dict(compare="lt", pad=[1, 0, 2, 1], nan=1, site="a"),
    ),
    "bitserial_conv2d": (
        ops.bitserial_conv2d,
        [tensor(N, 6, 6, 4, dtype=U), tensor(8, 2, 2, 1, dtype=U)],
        dict(
            strides=[2, 1],
            padding=[1, 0, 2, 1],
            dilation=[1, 2],
            groups=2,
            in_channels=40,
            bits=2,
            encoding="unsigned",
        ),
    ),
    "bitserial_conv2d_blocked": (
        ops.bitserial_conv2d_blocked,
        [
            tensor(N, 6, 6, 4, dtype=U),
            tensor(2, 2, 2, 1, 4, dtype=U),
            tensor(1, 1, 8, dtype="int32"),
            tensor(3, dtype="int32"),
            tensor(4, dtype="int32"),
        ],
        dict(strides=[2, 1], dilation=[1, 2], groups=2, bits=2, alpha=1, counts="bytes"),
    ),
    "bitserial_conv2d_runs": (
        ops.bitserial_conv2d_runs,
        [
            tensor(N, 6, 6, 4, dtype=U),
            tensor(2, 2, 1, 8, 4, dtype=U),
            tensor(1, 1, 11, dtype="int32"),
            tensor(3, dtype="int32"),
            tensor(5, dtype="int32"),
        ],
        dict(kernel_width=2, strides=[2, 1], bits=2, alpha=1),
    ),
    "bitserial_conv2d_signs": (
        ops.bitserial_conv2d_signs,
        [tensor(N, 6, 6, 2, dtype=U), tensor(1, 2, 2, 16, 2, dtype=U)],
        dict(in_channels=40, kernel_width=2, strides=[2, 1], padding=[1, 0, 2, 1]),
    ),
    "bitserial_dense": (
        ops.bitserial_dense,
        [tensor(N, 4, dtype=U), tensor(5, 2, dtype=U)],
        dict(in_channels=40, bits=2, encoding="unsigned"),
    ),
    "bitserial_product": (
        ops.bitserial_product,
        [tensor(N, 3, 4, 4, dtype=U), tensor(N, 3, 5, 4, dtype=U)],
        dict(
            in_channels=40,
            left_bits=2,
            right_bits=2,
            left_encoding="ternary",
            right_encoding="unsigned",
            layers=["a"],
        ),
    ),
    "product": (ops.product, [tensor(N, 3, 4, 8), tensor(N, 3, 5, 8)], dict(layers=["a"])),
    "conv2d": (
        ops.conv2d,
        [tensor(N, 6, 6, 4), tensor(8, 2, 2, 2)],
        dict(strides=[2, 1], padding=[1, 0, 2, 1], dilation=[1, 2], groups=2),
    ),
    "convolution": (
        ops.convolution,
        [tensor(N, 4, 6, 6), tensor(8, 2, 2, 2)],
        dict(strides=[2, 1], padding=[1, 0, 2, 1], dilation=[1, 2], groups=2, layers=["a"]),
    ),
    "dense": (ops.dense, [tensor(N, 8), tensor(8, 5)], dict(layers=["a", "b"])),
    "levels": (
        ops.levels,
        [tensor(N, 8, 4, 4), tensor(8, 1, 1), tensor()],
        dict(base=-1.0, step=0.5, compare="lt", layout="NCHW", site="relu"),
    ),
    "conv2d_blocked": (
        ops.conv2d_blocked,
        [tensor(N, 6, 6, 4), tensor(2, 2, 2, 2, 4)],
        dict(strides=[2, 1], padding=[1, 0, 2, 1], dilation=[1, 2], groups=2),
    ),
    "conv2d_narrow": (
        ops.conv2d_narrow,
        [tensor(N, 6, 6, 3), tensor(2, 2, 1, 2, 4, dtype=U)],
        dict(kind="int8", kernel_width=2, strides=[2, 1], padding=[1, 0, 2, 1], scale=0.5, zero=0),
    ),
    "conv2d_tiles": (
        ops.conv2d_tiles,
        [tensor(N, 6, 6, 3), tensor(1, 2, 1, 16, 64, dtype="int8")],
        dict(
            kind="int8", kernel_width=2, strides=[2, 1], padding=[1, 0, 2, 1], scale=0.5, zero=128
        ),
    ),
    "halving_pool": (ops.halving_pool, [tensor(N, 5, 4, 8)], {}),
    "repeat_channels": (ops.repeat_channels, [tensor(N, 4, 4, 8)], dict(times=3)),
    "round_half": (ops.round_half, [tensor(N, 4, 8)], dict(to="float16")),
    "moments": (ops.moments, [tensor(N, 4, 4, 8)], dict(orders=[2, 3])),
    "moment_rows": (ops.moment_rows, [tensor(N, 4, 4, 8)], dict(orders=[2, 3])),
    "moment_mean": (ops.moment_mean, [tensor(N, 4, 2, 8)], dict(width=4)),
    "moment_quotient": (ops.moment_quotient, [tensor(N, 2, 8)], dict(offset=0.5)),
    "instance_threshold": (
        ops.instance_threshold,
        [tensor(N, 8), *[tensor(8)] * 2, tensor(3, 8), tensor(3), tensor(8, 3), tensor(8)],
        {},
    ),
}
BLOCKS = {
    "threshold_pack": (8, ["threshold_pack", "pack_pad"], {"threshold_pack": "insta_pack"}),
    "threshold_signs": (8, ["threshold_signs", "signs_pad"], {"threshold_signs": "insta_pack"}),
    "bitserial_conv2d": (4, ["bitserial_conv2d"], {}),
    "bitserial_conv2d_blocked": (
        4,
        ["bconv_partial", "bconv", "bconv_out"],
        {"bconv": "insta_bconv"},
    ),
    "bitserial_conv2d_runs": (
        4,
        ["bconv_both", "bconv_ones", "bconv_out"],
        {"bconv_both": "insta_bconv_runs"},
    ),
    "bitserial_conv2d_signs": (4, ["bconv_signs", "bconv"], {"bconv": "insta_bconv_signs"}),
    "bitserial_dense": (4, ["bitserial_dense"], {}),
    "bitserial_product": (4, ["bitserial_product"], {}),
    "conv2d": (4, ["pad", "conv2d"], {}),
    "dense": (4, ["dense"], {}),
    "conv2d_blocked": (4, ["pad", "fconv"], {"fconv": "insta_fconv"}),
    "conv2d_narrow": (4, ["narrow_pad", "fconv"], {"fconv": "insta_fconv"}),
    "conv2d_tiles": (4, ["narrow_pad", "fconv_tiles"], {"fconv_tiles": "insta_fconv_tiles"}),
    "halving_pool": (2, ["halving_pool"], {}),
    "repeat_channels": (2, ["repeat_channels"], {}),
    "round_half": (4, ["round_half"], {}),
    "moments": (8, ["moment_rows", "moment_total", "moment_out"], {}),
    "moment_rows": (8, ["moment_rows"], {}),
    "moment_mean": (8, ["moment_total", "moment_out"], {}),
    "moment_quotient": (8, ["moment_quotient"], {}),
    "instance_threshold": (8, ["se_squeeze", "se_relu", "se_excite", "instance_threshold"], {}),
}


WITHOUT_KERNEL = {"convolution", "levels", "product"}
"""A pass makes another operator of these, or they are made of Relax's own."""


def test_every_operator_is_covered():
    assert set(CALLS) == set(BLOCKS) | WITHOUT_KERNEL == set(ops.__all__)
    assert not set(BLOCKS) & WITHOUT_KERNEL
    assert all(callable(getattr(reference, name)) for name in ops.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_script_round_trip(build_op, name):
    builder, types, attrs = CALLS[name]
    mod = build_op(builder, types, **attrs)
    text = mod.script()
    assert f"R.insta.{name}(" in text
    parsed = tvm.script.from_source(text)
    tvm.ir.assert_structural_equal(parsed, mod)
    assert parsed.script() == text
    for attribute, value in attrs.items():
        call = parsed["main"].body.blocks[0].bindings[0].value
        got = call.attrs[attribute]
        assert (list(got) if isinstance(value, list) else got) == value


def test_script_reads_defaults():
    mod = tvm.script.from_source(
        "@I.ir_module\n"
        "class Module:\n"
        "    @R.function\n"
        "    def main(x: R.Tensor((2, 40), dtype='float32'),\n"
        "             t: R.Tensor((1, 1, 40), dtype='float32')):\n"
        "        y = R.insta.threshold_pack(x, t)\n"
        "        return y\n"
    )
    assert [int(d) for d in mod["main"].ret_ty.shape.values] == [2, 2]
    assert str(mod["main"].ret_ty.dtype.dtype) == "uint32"


@pytest.mark.parametrize("name", BLOCKS)
def test_primfunc_and_block_names(build_op, name):
    builder, types, attrs = CALLS[name]
    mod = relax.transform.LegalizeOps()(build_op(builder, types, **attrs))
    function = mod[name]
    pattern, blocks, rules = BLOCKS[name]
    assert int(function.attrs["op_pattern"]) == pattern
    schedule = s_tir.Schedule(tvm.IRModule({"main": function}))
    found = schedule.get_child_blocks(schedule.get_sblock("root"))
    assert [schedule.get(block).name_hint for block in found] == blocks
    for block, want in rules.items():
        annotations = schedule.get(schedule.get_sblock(block)).annotations
        assert str(annotations["schedule_rule"]) == want


def test_padding_blocks_only_where_there_is_padding(build_op):
    for builder, types in (
        (ops.threshold_pack, [tensor(1, 4, 4, 32), tensor(1, 1, 1, 1, 32)]),
        (ops.threshold_signs, [tensor(1, 4, 4, 32), tensor(1, 1, 1, 1, 32)]),
        (ops.conv2d_blocked, [tensor(1, 4, 4, 4), tensor(2, 3, 3, 4, 4)]),
    ):
        mod = relax.transform.LegalizeOps()(build_op(builder, types))
        text = mod[builder.__name__].script()
        assert "pad" not in text.replace("threshold_pack", "")


def test_errors_keep_their_class():
    call = ops.moments(relax.Var("x", tensor(1, 8)))
    with pytest.raises(OpError) as caught:
        relax.BlockBuilder().normalize(call)
    assert isinstance(caught.value, InstaError)


def test_unknown_shape_and_non_tensor_are_refused(build_op):
    with pytest.raises(OpError, match="has no known shape"):
        call = ops.moments(relax.Var("x", relax.TensorType(dtype="float32", ndim=4)))
        relax.BlockBuilder().normalize(call)
    with pytest.raises(OpError, match=r"x\) is of type R\.Shape"):
        call = ops.moments(relax.Var("x", relax.ShapeType([1, 2])))
        relax.BlockBuilder().normalize(call)


def epilogue_module(rng, weight, tables):
    """conv -> cast -> multiply -> add -> add residual -> prelu, between opaque neighbours."""
    n = tirx.Var("n", "int64")
    scale, bias, slope = (rng.standard_normal(8, np.float32) for _ in range(3))
    bb = relax.BlockBuilder()
    x, thresholds = relax.Var("x", tensor(n, 5, 4, 8)), relax.Var("t", tensor(1, n, 1, 1, 8))
    with bb.function("main", [x, thresholds]):
        with bb.dataflow():
            packed = bb.emit(ops.threshold_pack(x, thresholds, pad=[1, 1, 1, 1]))
            constants = [relax.const(weight), *map(relax.const, tables)]
            y = bb.emit(ops.bitserial_conv2d_blocked(packed, *constants))
            y = bb.emit(relax.op.astype(y, "float32"))
            y = bb.emit(relax.op.multiply(y, relax.const(scale)))
            y = bb.emit(relax.op.add(y, relax.const(bias)))
            y = bb.emit(relax.op.add(y, x))
            y = bb.emit(relax.op.nn.prelu(y, relax.const(slope), axis=3))
            result = bb.emit_output(bb.emit(ops.moments(y, orders=[3])))
        bb.emit_func_output(result)
    return bb.get(), (scale, bias, slope)


def test_epilogue_fuses_behind_the_blocked_convolution(rng, compile_op):
    signs = rng.choice([-1, 1], (8, 3, 3, 8))
    weight = packing.pack_weight(signs)
    geometry = dict(strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    tables = packing.border_tables(
        weight, (5, 4), in_channels_per_group=8, bits=1, encoding="bipolar", **geometry
    )
    mod, (scale, bias, slope) = epilogue_module(rng, packing.block_weight(weight, 4), tables)

    passes = relax.transform
    fused = mod
    for step in (
        passes.LegalizeOps(),
        passes.AnnotateTIROpPattern(),
        passes.FuseOps(),
        passes.FuseTIR(),
        passes.DeadCodeElimination(),
    ):
        fused = step(fused)
    names = sorted(var.name_hint for var in fused.get_global_vars())
    convolution = "fused_bitserial_conv2d_blocked_cast_multiply_add_add1_prelu"
    assert names == sorted([convolution, "main", "moments", "threshold_pack"])

    function = compile_op(mod)
    for batch in (1, 2, 5):
        x = rng.standard_normal((batch, 5, 4, 8), np.float32)
        thresholds = rng.standard_normal((1, batch, 1, 1, 8), np.float32)
        packed = reference.threshold_pack(x, thresholds)
        product = reference.bitserial_conv2d(packed, weight, in_channels=8, **geometry)
        y = product.astype(np.float64) * scale + bias + x
        y = np.where(y > 0, y, y * slope)
        # In units of 2**-24, relative to the magnitudes that are added: 4 float32 roundings of the
        # epilogue, cubed 12; of the moment 4 additions, 3 products and a quotient; doubled.
        magnitude = np.abs(product * scale) + np.abs(bias) + np.abs(x)
        magnitude = magnitude * np.maximum(1, np.abs(slope))
        bound = 40 * 2.0**-24 * (magnitude.astype(np.float64) ** 3).mean(axis=(1, 2))
        error = np.abs(function(x, thresholds)[:, 0] - (y**3).mean(axis=(1, 2)))
        assert np.all(error <= bound)
