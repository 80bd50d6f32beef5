"""The kernels that `benchmarks.layers` times: built, scheduled and compiled as a model's are."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax import TensorType

from tvm_insta import ops
from tvm_insta.codegen.parts import serial
from tvm_insta.ops.bitserial_conv2d_signs import spare_rows
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import (
    Blocking,
    ConvTiles,
    TileImage,
    TileWeights,
    back_end,
    schedule_module,
)
from tvm_insta.target import InstaTarget


def _function(types: list[TensorType], body: Any) -> tvm.ir.IRModule:
    """A module whose `main` returns body(emit, *params)."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", ty) for i, ty in enumerate(types)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def binary_layer(side: int, channels: int, target: InstaTarget, epilogue: bool) -> tvm.ir.IRModule:
    """A binary 3x3 layer on a padded image, bare or with the whole epilogue of a block."""
    words, padded = channels // 32, side + 2
    own = back_end(target.tvm).binary_blocking(channels, 1) or Blocking("uint32", target.lanes)
    blocks, pieces = channels // own.lanes, words * 32 // int(own.dtype.removeprefix("uint"))
    if own.counts == "nibbles":
        tap = [3, channels // 4]
    else:
        tap = [3, words] if own.dtype == "uint32" else [pieces, 3]
    integers = [
        TensorType([1, padded, padded, words], "uint32"),
        TensorType([blocks, 3, *tap, own.lanes], own.dtype),
        TensorType([3, 3, channels], "int32"),
        TensorType([side], "int32"),
        TensorType([side], "int32"),
    ]

    def convolution(*params: relax.Var) -> relax.Expr:
        # alpha = 1: an even number of channels gives even dot products, see passes/lower_binary.py
        return ops.bitserial_conv2d_blocked(*params, alpha=1, counts=own.counts)

    return _binary(integers, convolution, _floats(side, channels) if epilogue else [])


def tiled_layer(
    side: int, channels: int, epilogue: bool, weights: TileWeights, image: TileImage
) -> tvm.ir.IRModule:
    """The same layer as products of bytes in AMX tiles.

    Its image is bits that are not padded, or bytes that are.
    """
    words, padded = channels // 32, side + 2
    units = -(-3 * words * 32 // 64)  # of 64 bytes in a kernel row
    if image is TileImage.BITS:
        data, form = TensorType([1, side, side, words], "uint32"), {"padding": [1, 1, 1, 1]}
    else:
        spare = spare_rows(padded, 3, 1, channels)
        data = TensorType([1, padded + spare, padded, words * 32], "int8")
        form = {"image": image.value, "spare": spare}
    integers = [
        data,
        TensorType([channels // 16, 3, units, 16, 2], "uint32")
        if weights is TileWeights.BITS
        else TensorType([channels // 16, 3, units, 16, 64], "int8"),
    ]

    def convolution(*params: relax.Var) -> relax.Expr:
        return ops.bitserial_conv2d_signs(
            *params,
            in_channels=channels,
            kernel_width=3,
            weights=weights.value,
            **form,
        )

    return _binary(integers, convolution, _floats(side, channels) if epilogue else [])


def _floats(side: int, channels: int) -> list[TensorType]:
    """What the epilogue of a block reads: five numbers for each channel, and the shortcut."""
    vector = TensorType([channels], "float32")
    return [*[vector] * 5, TensorType([1, side, side, channels], "float32")]


def _binary(integers: list[TensorType], convolution: Any, floats: list[TensorType]) -> Any:
    """A binary convolution of some tensors, with the whole epilogue if there are floats for it."""

    def body(emit: Any, *params: relax.Var) -> relax.Expr:
        y = emit(convolution(*params[: len(integers)]))
        if not floats:
            return y
        scale, bias, shift, slope, back, residual = params[len(integers) :]
        y = emit(relax.op.multiply(emit(relax.op.astype(y, "float32")), scale))
        y = emit(relax.op.add(emit(relax.op.add(y, bias)), residual))
        y = emit(relax.op.nn.prelu(emit(relax.op.subtract(y, shift)), slope, axis=3))
        return emit(relax.op.add(y, back))

    return _function([*integers, *floats], body)


def float_layer(
    side: int, kernel: int, stride: int, inputs: int, outputs: int, target: InstaTarget
) -> tvm.ir.IRModule:
    """A float convolution of a square image `[1, side, side, inputs]`, padded, with a bias."""
    lanes = back_end(target.tvm).float_block or target.lanes
    shapes = [
        [1, side, side, inputs],
        [outputs // lanes, kernel, kernel, inputs, lanes],
        [outputs],
    ]

    def body(emit: Any, data: relax.Var, weight: relax.Var, bias: relax.Var) -> relax.Expr:
        padding = [kernel // 2] * 4
        y = emit(ops.conv2d_blocked(data, weight, strides=[stride, stride], padding=padding))
        return emit(relax.op.add(y, bias))

    return _function([TensorType(shape, "float32") for shape in shapes], body)


def stem(target: InstaTarget) -> tvm.ir.IRModule:
    """The float stem of ResNet-18: 7x7, stride 2, 3 to 64 channels, 224x224, with a bias."""
    return float_layer(224, 7, 2, 3, 64, target)


def time_kernel(
    mod: tvm.ir.IRModule, target: InstaTarget, repeats: int, wish: ConvTiles | None = None
) -> tuple[float, float]:
    """Legalise, fuse, schedule, compile and run the only kernel of `mod`.

    Args:
        mod: of one kernel.
        target: runs on this machine.
        repeats: measurements.
        wish: parameters of the schedule; None leaves them to it.

    Returns:
        Median and minimum over `repeats` of the mean time of 20 runs, in microseconds.
    """
    fused = fuse(mod)
    parameters = {} if wish is None else {var.name_hint: wish for var in fused.functions}
    scheduled, (record,) = schedule_module(
        fused, target.tvm, lanes=target.lanes, parameters=parameters
    )
    function = serial(scheduled[record.function]).with_attr("global_symbol", "kernel")
    library = tvm.compile(tvm.ir.IRModule({"kernel": function}), target=target.tvm)
    arrays = [tvm.runtime.tensor(_random(parameter)) for parameter in function.params]
    timer = library.mod.time_evaluator("kernel", tvm.cpu(), number=20, repeat=repeats)
    times = 1e6 * np.array(timer(*arrays).results)
    return float(np.median(times)), float(times.min())


def _random(parameter: Any) -> np.ndarray:
    """An array of the parameter's shape and dtype; border classes are 0."""
    rng = np.random.default_rng(0)
    shape = [int(d) for d in parameter.shape if isinstance(d, tirx.IntImm)]
    if str(parameter.dtype) == "uint32":
        return rng.integers(0, 2**32, shape, dtype=np.uint32)
    if str(parameter.dtype) == "uint8":  # of words, or four bits each; both are right below 16
        return rng.integers(0, 16, shape, dtype=np.uint8)
    if str(parameter.dtype) == "int8":
        return rng.choice(np.array([-1, 1], np.int8), shape)
    if str(parameter.dtype) == "int32":
        return np.zeros(shape, np.int32)
    return rng.standard_normal(shape).astype(np.float32)
