"""PyTorch operators of ours: what the front end writes into a graph for the Relax importer.

They are executable in eager PyTorch, pass through torch.export whole, and carry the identity of a
layer or of a level tensor as a string: `layer` is the module path of the report, `site` a key of
`Imported.sites`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

COMPARE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ge": torch.ge,
    "gt": torch.gt,
    "le": torch.le,
    "lt": torch.lt,
}


@torch.library.custom_op("tvm_insta::levels", mutates_args=())
def levels(
    x: torch.Tensor,
    thresholds: Sequence[torch.Tensor],
    base: float,
    step: float,
    compare: str,
    nan: int,
    channels_last: bool,
    site: str,
) -> torch.Tensor:
    """Give ``base + step * |{t : x <compare> t}|``, for NaN ``base + step * nan``.

    Args:
        x: any shape, float32.
        thresholds: one tensor per level, each broadcasts to the shape of x.
        base: the value where no comparison holds.
        step: what each comparison that holds adds; may be negative.
        compare: "ge", "gt", "le" or "lt".
        nan: how many comparisons count as held for NaN.
        channels_last: whether the channels are the last dimension, else the second.
        site: key of `Imported.sites`.

    Returns:
        The shape of x, float32.
    """
    count = torch.zeros_like(x)
    for at, threshold in enumerate(thresholds):
        holds = COMPARE[compare](x, threshold)
        if at < nan:
            holds = holds | torch.isnan(x) | torch.isnan(threshold)
        count = count + holds.to(x.dtype)
    return base + step * count


@levels.register_fake
def _(
    x: torch.Tensor,
    thresholds: Sequence[torch.Tensor],
    base: float,
    step: float,
    compare: str,
    nan: int,
    channels_last: bool,
    site: str,
) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("tvm_insta::convolution", mutates_args=())
def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layer: str,
) -> torch.Tensor:
    """Give the two-dimensional convolution of ``x`` with zero padding on each of four sides.

    Args:
        x: ``[N, C, H, W]`` float32.
        weight: ``[O, C / groups, KH, KW]`` float32.
        stride: vertical, horizontal.
        padding: top, left, bottom, right; PyTorch's own pads two opposite sides alike.
        dilation: vertical, horizontal.
        groups: convolution groups.
        layer: identity in the report.

    Returns:
        ``[N, O, OH, OW]`` float32, no bias.
    """
    top, left, bottom, right = padding
    padded = F.pad(x, (left, right, top, bottom)) if any(padding) else x
    return F.conv2d(padded, weight, None, list(stride), 0, list(dilation), groups)


@convolution.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    layer: str,
) -> torch.Tensor:
    top, left, bottom, right = padding
    size = [
        (x.shape[2] + top + bottom - dilation[0] * (weight.shape[2] - 1) - 1) // stride[0] + 1,
        (x.shape[3] + left + right - dilation[1] * (weight.shape[3] - 1) - 1) // stride[1] + 1,
    ]
    return x.new_empty([x.shape[0], weight.shape[0], *size])


@torch.library.custom_op("tvm_insta::matmul", mutates_args=())
def matmul(a: torch.Tensor, b: torch.Tensor, layer: str) -> torch.Tensor:
    """Give the matrix product of `torch.matmul`.

    Args:
        a: ``[..., M, K]`` float32.
        b: ``[K, O]``, or ``[..., K, O]`` computed from the input, float32.
        layer: identity in the report.

    Returns:
        ``[..., M, O]`` float32.
    """
    return torch.matmul(a, b)


@matmul.register_fake
def _(a: torch.Tensor, b: torch.Tensor, layer: str) -> torch.Tensor:
    return torch.matmul(a, b)


@torch.library.custom_op("tvm_insta::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor, layer: str) -> torch.Tensor:
    """Give the products of the rows of ``a`` and the rows of ``b``, both of few values.

    Args:
        a: ``[N, M, K]`` or ``[N, G, M, K]`` float32.
        b: ``[N, O, K]`` or ``[N, G, O, K]`` float32.
        layer: identity in the report.

    Returns:
        ``[N, M, O]`` or ``[N, G, M, O]`` float32.
    """
    return torch.matmul(a, b.transpose(-1, -2))


@product.register_fake
def _(a: torch.Tensor, b: torch.Tensor, layer: str) -> torch.Tensor:
    return torch.matmul(a, b.transpose(-1, -2))


@torch.library.custom_op("tvm_insta::linear", mutates_args=())
def linear(x: torch.Tensor, weight: torch.Tensor, layer: str) -> torch.Tensor:
    """Give the product of the last dimension with a weight.

    Args:
        x: ``[..., C]`` float32.
        weight: ``[O, C]`` float32.
        layer: identity in the report.

    Returns:
        ``[..., O]`` float32.
    """
    return F.linear(x, weight)


@linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, layer: str) -> torch.Tensor:
    return F.linear(x, weight)


@torch.library.custom_op("tvm_insta::round_half", mutates_args=())
def round_half(x: torch.Tensor, to: str) -> torch.Tensor:
    """Round numbers to half precision, and leave them float32.

    Args:
        x: any shape, float32.
        to: "bfloat16" or "float16".
    """
    return x.to(getattr(torch, to)).float()


@round_half.register_fake
def _(x: torch.Tensor, to: str) -> torch.Tensor:
    return torch.empty_like(x)
