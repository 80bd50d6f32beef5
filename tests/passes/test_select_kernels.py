"""Which binary convolutions AMX tiles compute: by wish, by measurement, by cost model.

And where their images are written as bytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.networks import generic
from tests.passes.scripts import check, const
from tvm_insta import ops
from tvm_insta.frontend import SourceLayer
from tvm_insta.ops import packing
from tvm_insta.passes.context import Context
from tvm_insta.passes.report import Layer, Report
from tvm_insta.passes.rewriter import op_name
from tvm_insta.passes.select_kernels import select_kernels
from tvm_insta.schedules import BinaryLayer, Measured
from tvm_insta.target import parse

SERVER = parse("llvm -mtriple=x86_64-linux-gnu -mcpu=sapphirerapids")
SIGNS = np.random.default_rng(0).choice([-1, 1], (64, 3, 3, 64))
WORDS = packing.pack_bits(SIGNS > 0)
BITS, TILES = const(WORDS, "uint32"), const(packing.tile_weight(WORDS, 64), "uint32")
OCTETS = const(packing.tile_bytes(packing.tile_weight(WORDS, 64), 64, 3), "int8")
ZEROS = const(np.zeros((1, 1, 1, 1, 1)))
SHAPE = BinaryLayer((8, 8), 64, 64, (3, 3), (1, 1), (1, 1, 1, 1), plain=True)


@I.ir_module
class Popcount:
    @R.function
    def main(x: R.Tensor((1, 8, 8, 64), "float32")) -> R.Tensor((1, 8, 8, 64), "int32"):
        with R.dataflow():
            p = R.insta.threshold_pack(x, ZEROS)
            y = R.insta.bitserial_conv2d(
                p, BITS, padding=[1, 1, 1, 1], in_channels=64, layers=["conv"]
            )
            R.output(y)
        return y


@I.ir_module
class Bytes:
    @R.function
    def main(x: R.Tensor((1, 8, 8, 64), "float32")) -> R.Tensor((1, 8, 8, 64), "int32"):
        with R.dataflow():
            p = R.insta.threshold_signs(x, ZEROS, pad=[1, 1, 2, 1])
            y = R.insta.bitserial_conv2d_signs(
                p,
                OCTETS,
                in_channels=64,
                kernel_width=3,
                weights="bytes",
                image="bytes",
                spare=1,
                layers=["conv"],
            )
            R.output(y)
        return y


@I.ir_module
class Tiles:
    @R.function
    def main(x: R.Tensor((1, 8, 8, 64), "float32")) -> R.Tensor((1, 8, 8, 64), "int32"):
        with R.dataflow():
            p = R.insta.threshold_signs(x, ZEROS, pad=[1, 1, 2, 1])
            y = R.insta.bitserial_conv2d_signs(
                p,
                TILES,
                in_channels=64,
                kernel_width=3,
                image="bytes",
                spare=1,
                layers=["conv"],
            )
            R.output(y)
        return y


CASES = {
    "wished": ({"binary": "amx"}, Bytes, "computed in AMX tiles, weights as bytes, image as bytes"),
    "bits wished": (
        {"binary": "amx", "amx_weights": "bits"},
        Tiles,
        "computed in AMX tiles, weights as bits, image as bytes",
    ),
    "bytes wished": (
        {"amx_weights": "bytes"},
        Bytes,
        "computed in AMX tiles, weights as bytes, image as bytes (by cost model)",
    ),
    "not wished": (
        {"binary": "popcount"},
        Popcount,
        "computed by popcount, not in AMX tiles",
    ),
    "by cost model": (
        {},
        Bytes,
        "computed in AMX tiles, weights as bytes, image as bytes (by cost model)",
    ),
    "measured slower": (
        {"measured": {SHAPE: Measured(popcount=1.0, tiles=2.0)}},
        Popcount,
        "computed by popcount, not in AMX tiles (measured)",
    ),
    "measured faster": (
        {"measured": {SHAPE: Measured(popcount=2.0, tiles=1.0)}},
        Bytes,
        "computed in AMX tiles, weights as bytes, image as bytes (measured)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_that_could_be_either(case):
    options, expected, note = CASES[case]
    layer = Layer(SourceLayer("conv", "conv2d", "", 0, (), ()))
    check(select_kernels, Popcount, expected, Context(SERVER, report=Report([layer]), **options))
    assert (layer.shape, layer.notes) == (SHAPE, (note,))


def test_a_target_without_tiles():
    layer = Layer(SourceLayer("conv", "conv2d", "", 0, (), ()))
    check(select_kernels, Popcount, Popcount, Context(generic(4), report=Report([layer])))
    assert (layer.shape, layer.notes) == (None, ())


def tensors(pads, strides=None, *, dense=False, encoding="bipolar", batch=2):
    """A level tensor that binary 3x3 convolutions of some paddings read, and a dense layer."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([batch, 8, 8, 64], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            packed = builder.emit(ops.threshold_pack(x, ZEROS, compare="gt", nan=1, site="s"))
            results = [
                builder.emit(
                    ops.bitserial_conv2d(
                        packed,
                        BITS,
                        in_channels=64,
                        padding=pad,
                        strides=[stride, stride],
                        encoding=encoding,
                        layers=[f"conv{at}"],
                    )
                )
                for at, (pad, stride) in enumerate(
                    zip(pads, strides or [1] * len(pads), strict=True)
                )
            ]
            if dense:
                flat = builder.emit(relax.op.reshape(packed, [batch, 128]))
                weight = const(np.zeros((8, 128)), "uint32")
                results.append(
                    builder.emit(ops.bitserial_dense(flat, weight, in_channels=4096, layers=["fc"]))
                )
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.get()


def selected(mod, **options):
    """Name and call of every operator behind the pass."""
    made = select_kernels(mod, Context(SERVER, report=Report(), **options))
    (block,) = made["main"].body.blocks
    return [
        (op_name(binding.value).removeprefix("relax.insta."), binding.value)
        for binding in block.bindings
        if op_name(binding.value)
    ]


ONE, LOPSIDED = [1, 1, 1, 1], [1, 0, 1, 2]
SIGNS, CONV = "bitserial_conv2d_signs", "bitserial_conv2d"


def test_readers_of_one_padding_share_the_bytes():
    """The rows behind the image are as many as the one that needs most of them."""
    found = selected(tensors([ONE, ONE], [2, 1]), binary="amx")
    assert [name for name, _ in found] == ["threshold_signs", SIGNS, SIGNS]
    said = ops.threshold_signs.of(found[0][1])
    assert (said.compare, said.nan, said.site, said.pad) == ("gt", 1, "s", (1, 1, 4, 1))
    convs = [ops.bitserial_conv2d_signs.of(call) for _, call in found[1:]]
    assert [conv.spare for conv in convs] == [3, 3]
    assert [conv.padding for conv in convs] == [(0, 0, 0, 0)] * 2
    assert [conv.strides for conv in convs] == [(2, 2), (1, 1)]


@pytest.mark.parametrize(
    ("mod", "convs"),
    [
        (tensors([ONE, LOPSIDED]), [SIGNS, SIGNS]),
        (tensors([ONE], dense=True), [SIGNS]),
        (tensors([ONE, ONE], encoding="unsigned"), [CONV, CONV]),
    ],
    ids=["paddings", "words", "popcounts"],
)
def test_readers_that_differ_get_words(mod, convs):
    found = selected(mod, binary="amx")
    names = [name for name, _ in found if name not in ("bitserial_dense", "relax.reshape")]
    assert names == ["threshold_pack", *convs]
    padded = [call for name, call in found if name == SIGNS]
    assert all(ops.bitserial_conv2d_signs.of(call).image == "bits" for call in padded)
    assert all(any(ops.bitserial_conv2d_signs.of(call).padding) for call in padded)


def test_one_reader_by_popcounts_gives_words_to_all():
    """Measured: tiles win at stride 1 and lose at stride 2."""
    fast, slow = SHAPE, replace(SHAPE, strides=(2, 2))
    figures = {fast: Measured(popcount=2.0, tiles=1.0), slow: Measured(popcount=1.0, tiles=2.0)}
    mod = tensors([ONE, ONE], [1, 2])
    layers = [Layer(SourceLayer(f"conv{at}", "conv2d", "", 0, (), ())) for at in (0, 1)]
    context = Context(SERVER, report=Report(layers), measured=figures)
    (block,) = select_kernels(mod, context)["main"].body.blocks
    calls = [op_name(binding.value).removeprefix("relax.insta.") for binding in block.bindings]
    assert calls[:3] == ["threshold_pack", SIGNS, CONV]
    assert [layer.notes for layer in layers] == [
        ("computed in AMX tiles, weights as bytes, image as bits (measured)",),
        ("computed by popcount, not in AMX tiles (measured)",),
    ]


def test_words_that_are_a_result_stay():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1, 8, 8, 64], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            packed = builder.emit(ops.threshold_pack(x, ZEROS))
            conv = builder.emit(
                ops.bitserial_conv2d(packed, BITS, in_channels=64, padding=ONE, layers=["conv"])
            )
            result = builder.emit_output(relax.Tuple([packed, conv]))
        builder.emit_func_output(result)
    names = [name for name, _ in selected(builder.get(), binary="amx")]
    assert names == ["threshold_pack", SIGNS]
