"""The convolution of a function that AMX tiles may compute, from its blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

from tvm_insta.schedules.base import Kernel, NotApplicable, OtherKind, blocks, name_of, rule_of
from tvm_insta.schedules.x86.amx_form import BF16, FORMS, SIGNED, SIGNS, UNSIGNED, Form, Product
from tvm_insta.schedules.x86.amx_shape import CHANNELS, UNIT, Geometry, NumbersGeometry
from tvm_insta.schedules.x86.amx_tiles import TiledConvolution


class Found(NamedTuple):
    """The convolution of a function.

    Attributes:
        at: position of its sum among the blocks.
        form: the operator.
        product: the instruction that multiplies.
        conv: what its parameters depend on.
        given: the padded images in numbers that tiles load, where they are an argument.
    """

    at: int
    form: Form
    product: Product
    conv: TiledConvolution
    given: Any = None


def find_convolution(kernel: Kernel) -> Found:
    """The convolution of a function.

    Raises:
        OtherKind: there is none.
        NotApplicable: it is of another form, or the target has no such tiles.
    """
    schedule, every = kernel.schedule, blocks(kernel.schedule)
    found = [
        (at, form)
        for at, block in enumerate(every)
        for form in FORMS
        if rule_of(schedule, block) == form.rule
    ]
    if not found:
        raise OtherKind
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} convolution blocks")
    ((at, form),) = found
    before = [name_of(schedule, block) for block in every[:at]]
    weight, given = _arguments(schedule, every[at])
    if before != ([form.image] if given is None else []):
        raise NotApplicable("a block before the convolution")
    bare = at == len(every) - 1
    if form is SIGNS:
        product, bits = SIGNED, str(weight.dtype) != "int8"
        padded = given if given is not None else schedule.get(every[0]).writes[0].source
        shape = _binary_geometry(schedule, every[at], padded, weight)
    else:
        notes = schedule.get(every[at]).annotations
        product, bits = UNSIGNED if int(notes["zero"]) else SIGNED, False
        if str(weight.dtype) == "uint16":
            product = BF16
        shape = _geometry(schedule, every[at], every[0], weight)
    if not (kernel.family.amx_bf16 if product is BF16 else kernel.family.amx_tiles):
        numbers = "bfloat16" if product is BF16 else "bytes"
        raise NotApplicable(f"the target has no AMX tiles of {numbers} with AVX-512 BW")
    return Found(at, form, product, TiledConvolution(shape, bits, bare), given)


def _arguments(schedule: Any, conv: Any) -> tuple[Any, Any]:
    """The weight of a convolution, and its image where that is an argument of the function."""
    parameters = list(schedule.mod["main"].params)
    read = [region.source for region in schedule.get(conv).reads]
    weight = next(buffer for buffer in read if len(buffer.shape) == 5)
    image = next(buffer for buffer in read if len(buffer.shape) != 5)
    return weight, image if any(image.same_as(each) for each in parameters) else None


def _geometry(schedule: Any, conv: Any, codes: Any, weight: Any) -> NumbersGeometry:
    """The shape of a convolution of narrow numbers, from its block and that of its image."""
    notes = schedule.get(conv).annotations
    channels = int(notes["channels"])
    _, padded_h, row = schedule.get(codes).writes[0].source.shape
    window = _window(notes, (int(padded_h), int(row) // channels))
    kernel = int(weight.shape[1]), int(notes["kernel_width"])
    return NumbersGeometry(
        *window,
        kernel,
        channels,
        int(weight.shape[0]) * CHANNELS,
        UNIT // int(weight.shape[4]),
    )


def _binary_geometry(schedule: Any, conv: Any, padded: Any, weight: Any) -> Geometry:
    """The shape of a binary convolution, from its block and its image as bytes."""
    notes = schedule.get(conv).annotations
    _, padded_h, padded_w, _ = padded.shape
    window = _window(notes, (int(padded_h) - int(notes["spare"]), int(padded_w)))
    kernel = int(weight.shape[1]), int(notes["kernel_width"])
    return Geometry(*window, kernel, int(notes["in_channels"]), int(weight.shape[0]) * CHANNELS)


def _window(
    notes: Any, padded: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Image, padding and strides of a convolution whose padded image has a height and width."""
    top, left, bottom, right = (int(v) for v in notes["padding"])
    stride_y, stride_x = (int(v) for v in notes["strides"])
    image = padded[0] - top - bottom, padded[1] - left - right
    return image, (top, left, bottom, right), (stride_y, stride_x)
