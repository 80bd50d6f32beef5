"""Inputs of a file: their shapes, a rehearsal without data, and whether the batch may vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.apart import explained_run, images_are_apart
from tvm_insta.frontend.onnx.execute import Step, Value, tensor_of, without_data
from tvm_insta.frontend.onnx.layer import OnnxLayer
from tvm_insta.frontend.onnx.limits import ACTIVATION_ELEMENTS, MACS, check_shape
from tvm_insta.frontend.onnx.module import OnnxModule, input_dtype
from tvm_insta.frontend.onnx.operators.layers import macs


@dataclass(frozen=True)
class Batch:
    """How many images the module takes at a time.

    Attributes:
        shapes: of each input, batch first; the batch is 1 if it may vary, else what it must be.
        dynamic: whether it may vary.
        note: a sentence where the file says otherwise, "" if not.
    """

    shapes: tuple[tuple[int, ...], ...]
    dynamic: bool
    note: str = ""


def input_shapes(
    module: OnnxModule, given: Mapping[str, Sequence[int]] | None = None
) -> tuple[tuple[int | None, ...], ...]:
    """The shape of each input; None for a batch that the file leaves open.

    Args:
        module: the network.
        given: shapes by input name, batch first, for dimensions that the file leaves open.

    Raises:
        ImportModelError: a dimension other than the batch is open and not given, or does not fit.
    """
    given = dict(given or {})
    shapes = []
    for each in module.graph.inputs:
        shape = list(each.shape or ())
        wanted = given.pop(each.name, None)
        if wanted is not None:
            pairs = zip(shape[1:], wanted[1:], strict=False)
            if len(wanted) != len(shape) or any(size not in (None, w) for size, w in pairs):
                raise ImportModelError(
                    f"input {each.name!r} has the shape {list(each.shape or ())} in the file, "
                    f"which {list(wanted)} does not fit"
                )
            shape = [shape[0] if shape else None, *wanted[1:]]
        if not shape or None in shape[1:]:
            text = ", ".join("?" if size is None else str(size) for size in shape)
            raise ImportModelError(
                f"input {each.name!r} has the shape [{text}], but all dimensions behind the batch "
                "must be known: give them with --input-shape (or input_shapes=), or export the "
                "model with them"
            )
        check_shape([size or 1 for size in shape], f"input {each.name!r}")
        shapes.append(tuple(shape))
    if given:
        known = ", ".join(each.name for each in module.graph.inputs)
        raise ImportModelError(
            f"got a shape of input {next(iter(given))!r}, but there are: {known}"
        )
    return tuple(shapes)


def rehearse(module: OnnxModule, shapes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Run the module on tensors without data; returns the shapes of its outputs.

    Raises:
        ImportModelError: a node does not fit its inputs, or the network is absurdly large.
    """
    images = max(shapes[0][0], 1)
    elements = products = 0

    def watch(
        step: Step,
        operands: list[Value | None],
        results: tuple[Value, ...],
        layer: OnnxLayer | None,
    ) -> None:
        nonlocal elements, products
        for found in results:
            tensor = tensor_of(found)
            if tensor is None:
                continue
            check_shape([int(size) for size in tensor.shape], f"the result of {step.node}")
            elements += tensor.numel() // images
            if layer is not None:
                products += _macs(layer, operands, tensor) // images
        if elements > ACTIVATION_ELEMENTS or products > MACS:
            raise ImportModelError(
                f"one image makes {elements} activations and {products} multiply-accumulates up to "
                f"{step.node}, but at most {ACTIVATION_ELEMENTS} and {MACS} are taken"
            )

    with without_data():
        inputs = [
            torch.empty(tuple(shape), dtype=input_dtype(each))
            for shape, each in zip(shapes, module.graph.inputs, strict=True)
        ]
        outputs = explained_run(module, inputs, watch)
    return [tuple(int(size) for size in output.shape) for output in outputs]


def _macs(layer: OnnxLayer, operands: Sequence[Value | None], result: Tensor) -> int:
    given = iter(operands)
    values = [
        layer.bound_inputs[i][1] if i in layer.bound_inputs else (next(given) if name else None)
        for i, name in enumerate(layer.step.node.inputs)
    ]
    return macs(layer.step.node, [tensor_of(value) for value in values], result)


def settle(module: OnnxModule, given: Mapping[str, Sequence[int]] | None = None) -> Batch:
    """Find out which batches the module takes, and make it take them.

    A file that was written for a batch of its own is tried with another: shapes that hold its batch
    are read with the one at hand, and a batch of images must give what each image gives alone.

    Raises:
        ImportModelError: it runs with no batch.
    """
    shapes = input_shapes(module, given)
    fixed = [shape[0] for shape in shapes]
    if all(size is None for size in fixed):
        sized = [(2, *_known(shape)) for shape in shapes]
        outputs = rehearse(module, sized)
        _batch_outputs(module, outputs, 2)
        return Batch(tuple((1, *_known(shape)) for shape in shapes), True)
    sizes = {size for size in fixed if size is not None}
    if len(sizes) != 1:
        raise ImportModelError(
            f"its inputs have the batches {sorted(sizes)}, but need the same one"
        )
    own = sizes.pop()
    exact = [(own, *_known(shape)) for shape in shapes]
    _batch_outputs(module, rehearse(module, exact), own)
    module.batch = own
    if _varies(module, exact, own):
        return Batch(tuple((1, *_known(shape)) for shape in shapes), True)
    module.batch = None
    note = f"the file fixes the batch at {own}, and gives other results with another"
    if own != 1:
        raise ImportModelError(f"{note}: export it with a batch of 1, or with a dynamic one")
    return Batch(tuple(exact), False, note)


def _known(shape: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(int(size or 1) for size in shape[1:])


def _batch_outputs(module: OnnxModule, shapes: Sequence[Sequence[int]], batch: int) -> None:
    for name, shape in zip(module.graph.outputs, shapes, strict=True):
        if not shape or shape[0] != batch:
            raise ImportModelError(
                f"the output {name!r} has the shape {list(shape)} for a batch of {batch}, but the "
                "batch must come first: take it from the file's outputs, or transpose it there"
            )


def _varies(module: OnnxModule, exact: Sequence[tuple[int, ...]], own: int) -> bool:
    """Whether several images at once give what each gives alone."""
    try:
        larger = [(shape[0] * 2, *shape[1:]) for shape in exact]
        outputs = rehearse(module, larger)
        _batch_outputs(module, outputs, 2 * own)
        one = rehearse(module, [(1, *shape[1:]) for shape in exact]) if own != 1 else outputs
        _batch_outputs(module, one, 1 if own != 1 else 2)
    except ImportModelError:
        return False
    return images_are_apart(module, exact, own)
