"""ATen -> ONNX: layers, normalisations, pools and reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.write.aten import (
    arguments,
    dtype_of,
    pair,
    rank_of,
    rule,
)
from tvm_insta.frontend.onnx.write.graph_writer import GraphWriter, value_of


@rule("conv1d", "conv2d", "conv3d", "convolution")
def _conv(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    weight = given["weight"]
    rank = rank_of(node) - 2
    if given.get("transposed"):
        raise ImportModelError(f"{node.name}: a transposed convolution is not written")
    attributes: dict[str, Any] = {
        "kernel_shape": [int(size) for size in value_of(weight).shape[2:]],
        "strides": pair(given["stride"], rank),
        "dilations": pair(given["dilation"], rank),
        "group": int(given["groups"]),
    }
    if given["padding"] == "same":
        totals = [
            (size - 1) * step
            for size, step in zip(attributes["kernel_shape"], attributes["dilations"], strict=True)
        ]
        attributes["pads"] = [t // 2 for t in totals] + [t - t // 2 for t in totals]
    else:
        numbers = [0] if given["padding"] == "valid" else given["padding"]
        attributes["pads"] = pair(numbers, rank) * 2
    inputs = [writer.tensor(given["input"], torch.float32), writer.weight(weight, 0)]
    if given["bias"] is not None:
        inputs.append(writer.tensor(given["bias"], torch.float32))
    return writer.emit("Conv", *inputs, at=node, **attributes)


@rule("linear")
def _linear(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    x = writer.tensor(given["input"], torch.float32)
    weight = given["weight"]
    bias = [] if given["bias"] is None else [writer.tensor(given["bias"], torch.float32)]
    if rank_of(weight) == 1:  # one output, which has no axis of its own
        product = writer.emit("MatMul", x, writer.tensor(weight, torch.float32), at=node)
    elif rank_of(given["input"]) == 2:
        return writer.emit("Gemm", x, writer.weight(weight, 0), *bias, at=node, transB=1)
    else:
        turned = writer.emit("Transpose", writer.weight(weight, 0), perm=[1, 0])
        product = writer.emit("MatMul", x, turned, at=node)
    return writer.emit("Add", product, *bias) if bias else product


@rule("mm", "matmul", "bmm")
def _matmul(writer: GraphWriter, node: fx.Node) -> str:
    left, right = node.args
    assert isinstance(right, fx.Node)
    weight = writer.weight(right, rank_of(right) - 1) if rank_of(right) > 1 else writer.name(right)
    return writer.emit("MatMul", writer.tensor(left, torch.float32), weight, at=node)


@rule("addmm")
def _addmm(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    product = writer.tensor(given["mat1"], torch.float32), writer.weight(given["mat2"], 1)
    bias = writer.tensor(given["self"], torch.float32)
    scales = {"alpha": float(given["alpha"]), "beta": float(given["beta"])}
    return writer.emit("Gemm", *product, bias, at=node, **scales)


@rule("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    if given.get("training"):
        raise ImportModelError(f"{node.name}: batch normalisation is in training mode")
    channels = int(value_of(given["input"]).shape[1])
    defaults = {"weight": 1.0, "bias": 0.0}
    vectors = [
        writer.tensor(given[name], torch.float32)
        if given[name] is not None
        else writer.constant(torch.full((channels,), defaults[name]).numpy())
        for name in ("weight", "bias", "running_mean", "running_var")
    ]
    x = writer.tensor(given["input"], torch.float32)
    return writer.emit("BatchNormalization", x, *vectors, at=node, epsilon=float(given["eps"]))


@rule("layer_norm", "native_layer_norm")
def _layer_norm(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    shape = list(given["normalized_shape"])
    weight = torch.ones(shape) if given["weight"] is None else given["weight"]
    inputs = [writer.tensor(node.args[0], torch.float32), writer.tensor(weight, torch.float32)]
    if given["bias"] is not None:
        inputs.append(writer.tensor(given["bias"], torch.float32))
    return writer.emit(
        "LayerNormalization", *inputs, at=node, axis=-len(shape), epsilon=float(given["eps"])
    )


@rule("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d")
def _pool(writer: GraphWriter, node: fx.Node) -> str:
    given, rank = arguments(node), rank_of(node.args[0]) - 2  # type: ignore[arg-type]
    kernel = pair(given["kernel_size"], rank)
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": pair(given["stride"], rank) if given["stride"] else kernel,
        "pads": pair(given["padding"], rank) * 2,
    }
    if given["ceil_mode"]:
        attributes["ceil_mode"] = 1
    if given.get("divisor_override") is not None:
        raise ImportModelError(f"{node.name}: a pool with a divisor of its own is not written")
    x = writer.tensor(node.args[0], torch.float32)
    if "max" in str(node.target):
        return writer.emit(
            "MaxPool", x, at=node, dilations=pair(given["dilation"], rank), **attributes
        )
    counted = int(bool(given["count_include_pad"]))
    return writer.emit("AveragePool", x, at=node, count_include_pad=counted, **attributes)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def _adaptive(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], torch.float32)
    image = [int(size) for size in value_of(node.args[0]).shape[2:]]  # type: ignore[arg-type]
    result = [int(size) for size in value_of(node).shape[2:]]
    if math.prod(result) == 1:
        return writer.emit("GlobalAveragePool", x, at=node)
    if any(size % wanted for size, wanted in zip(image, result, strict=True)):
        raise ImportModelError(f"{node.name}: a pool from {image} to {result} has uneven windows")
    kernel = [size // wanted for size, wanted in zip(image, result, strict=True)]
    return writer.emit("AveragePool", x, at=node, kernel_shape=kernel, strides=kernel)


def _enter_reduction(name: str, op: str) -> None:
    @rule(name)
    def run(writer: GraphWriter, node: fx.Node) -> str:
        given = arguments(node)
        source = given["self"]
        axes = _axes(given.get("dim"), rank_of(source))
        keep = int(bool(given.get("keepdim")))
        x = writer.tensor(source, dtype_of(node))
        if op == "ReduceSum":  # its axes are an input since version 13
            return writer.emit(op, x, writer.ints(*axes), at=node, keepdims=keep)
        return writer.emit(op, x, at=node, axes=axes, keepdims=keep)


def _axes(dims: Any, rank: int) -> list[int]:
    chosen: Sequence[int] = [dims] if isinstance(dims, int) else dims or range(rank)
    return [int(axis) % rank for axis in chosen]


for _name, _op in {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "prod": "ReduceProd",
}.items():
    _enter_reduction(_name, _op)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(writer: GraphWriter, node: fx.Node) -> str:
    op = "LogSoftmax" if "log" in str(node.target) else "Softmax"
    x = writer.tensor(node.args[0], dtype_of(node))
    return writer.emit(op, x, at=node, axis=int(arguments(node)["dim"]))


@rule("argmax")
def _argmax(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    if given["dim"] is None:
        raise ImportModelError(f"{node.name}: argmax without an axis mixes the images")
    x = writer.tensor(node.args[0], torch.float32)
    keep = int(bool(given["keepdim"]))
    return writer.emit("ArgMax", x, at=node, axis=int(given["dim"]), keepdims=keep)
