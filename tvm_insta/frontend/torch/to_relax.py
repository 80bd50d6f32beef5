"""The rewritten graph becomes Relax by TVM's importer and converters of our own operators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from tvm_insta import ops
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.export import export_program, one_line
from tvm_insta.frontend.torch.operators import convert_map

Importer = Any  # TVM's importer: `env` maps fx nodes to Relax expressions


def to_relax(
    graph: fx.GraphModule, example_inputs: Sequence[torch.Tensor], *, max_batch: int, dynamic: bool
) -> tvm.IRModule:
    """Import a graph of ATen operators and of ours.

    Raises:
        ImportModelError: TVM's importer cannot take an operator.
    """
    program = export_program(graph, example_inputs, max_batch=max_batch, dynamic=dynamic)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return from_exported_program(
                program.run_decompositions({}),
                custom_convert_map=CONVERTERS,
                run_ep_decomposition=False,
                unwrap_unit_return_tuple=True,
            )
    except ImportModelError:
        raise
    except Exception as error:  # the importer raises many unrelated types
        raise ImportModelError(
            f"the exported module uses something the Relax importer cannot take "
            f"({one_line(error)}): rewrite that part with plain convolutions, products, pools and "
            "elementwise operators"
        ) from error


def _levels(node: fx.Node, importer: Importer) -> relax.Expr:
    source, thresholds, base, step, compare, last, site = node.args
    build, x = importer.block_builder, importer.env[source]
    own = list(x.ty.shape.values)
    shape = _as_pixels(own) if last else own
    args = []
    for each in thresholds:  # type: ignore[union-attr]
        threshold = importer.env[each]
        dims = list(threshold.ty.shape.values)
        if len(dims) > 0 and len(shape) != len(own):
            padded = _as_pixels([1] * (len(own) - len(dims)) + dims)
            threshold = build.emit(relax.op.reshape(threshold, padded))
        args.append(threshold)
    if len(shape) != len(own):
        x = build.emit(relax.op.reshape(x, shape))
    made = ops.levels(
        x,
        *args,
        base=base,  # type: ignore[arg-type]
        step=step,  # type: ignore[arg-type]
        compare=compare,  # type: ignore[arg-type]
        layout="NHWC" if last else "NCHW",
        site=site,  # type: ignore[arg-type]
    )
    result = build.emit(made)
    return result if len(shape) == len(own) else build.emit(relax.op.reshape(result, own))


def _as_pixels(shape: Sequence[Any]) -> list[Any]:
    """``[N, ..., C]`` as the channels-last image ``[N, 1, T, C]`` of its vectors."""
    if len(shape) in (2, 4):
        return list(shape)
    return [shape[0], 1, math.prod(int(dim) for dim in shape[1:-1]), shape[-1]]


def _convolution(node: fx.Node, importer: Importer) -> relax.Expr:
    data, weight, stride, padding, dilation, groups, layer = node.args
    return importer.block_builder.emit(
        ops.convolution(
            importer.env[data],
            importer.env[weight],
            strides=stride,  # type: ignore[arg-type]
            padding=padding,  # type: ignore[arg-type]
            dilation=dilation,  # type: ignore[arg-type]
            groups=groups,  # type: ignore[arg-type]
            layers=[str(layer)],
        )
    )


def _linear(node: fx.Node, importer: Importer) -> relax.Expr:
    source, weight_node, layer = node.args
    build = importer.block_builder
    data, weight = importer.env[source], importer.env[weight_node]
    shape = list(data.ty.shape.values)
    if len(shape) == 2:
        turned = build.emit(relax.op.permute_dims(weight, None))
        return build.emit(ops.dense(data, turned, layers=[str(layer)]))
    pixels = build.emit(relax.op.reshape(data, _as_pixels(shape)))
    out, channels = weight.ty.shape.values
    kernel = build.emit(relax.op.reshape(weight, [out, 1, 1, channels]))
    result = build.emit(ops.conv2d(pixels, kernel, layers=[str(layer)]))
    return build.emit(relax.op.reshape(result, [*shape[:-1], out]))


def _matmul(node: fx.Node, importer: Importer) -> relax.Expr:
    left, right, _ = node.args
    product = relax.op.matmul(importer.env[left], importer.env[right], out_dtype="float32")
    return importer.block_builder.emit(product)


CONVERTERS = convert_map(
    {
        "tvm_insta.levels.default": _levels,
        "tvm_insta.convolution.default": _convolution,
        "tvm_insta.linear.default": _linear,
        "tvm_insta.matmul.default": _matmul,
    }
)
