"""Convolutions, pools and normalisations with their attributes."""

# ruff: noqa: PLW0108 (a case's parameters name its inputs)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Function = Callable[..., torch.Tensor]


def weights(*shape: int) -> torch.Tensor:
    """Deterministic weights, neither symmetric nor equal."""
    count = 1
    for dim in shape:
        count *= dim
    return torch.sin(torch.arange(1.0, count + 1) * 1.7).view(shape)


CONVOLUTIONS: dict[str, Function] = {
    "conv2d": lambda x: F.conv2d(x, weights(4, 8, 3, 3)),
    "conv2d bias": lambda x: F.conv2d(x, weights(4, 8, 3, 3), weights(4)),
    "conv2d stride": lambda x: F.conv2d(x, weights(4, 8, 3, 2), None, (2, 1), (1, 0)),
    "conv2d dilation": lambda x: F.conv2d(x, weights(4, 8, 2, 2), None, 1, 1, (2, 3)),
    "conv2d groups": lambda x: F.conv2d(x, weights(4, 2, 3, 3), weights(4), 1, 1, 1, 4),
    "conv2d depthwise": lambda x: F.conv2d(x, weights(8, 1, 3, 3), None, 2, 1, 1, 8),
    "conv2d multiplier": lambda x: F.conv2d(x, weights(16, 1, 3, 3), None, 1, 1, 1, 8),
    "conv2d same": lambda x: F.conv2d(x, weights(4, 8, 3, 3), padding="same"),
    "conv2d same even": lambda x: F.conv2d(x, weights(4, 8, 4, 2), padding="same", dilation=(1, 2)),
    "conv2d valid": lambda x: F.conv2d(x, weights(4, 8, 3, 3), padding="valid"),
    "conv2d 1x1 padded": lambda x: F.conv2d(x, weights(4, 8, 1, 1), None, 1, 2),
    "conv2d one channel": lambda x: F.conv2d(x[:, :1], weights(1, 1, 3, 3), None, 1, 1),
    "conv2d of mean": lambda x: F.conv2d(
        x.abs().mean(1, keepdim=True), torch.full((1, 1, 3, 3), 1 / 9), None, 1, 1
    ),
    "conv2d input weights": lambda x: F.conv2d(x, weights(4, 8, 3, 3) * x.mean()),
    "conv1d": lambda s: F.conv1d(s, weights(4, 8, 3)),
    "conv1d attributes": lambda s: F.conv1d(s, weights(4, 2, 3), weights(4), 2, 3, 2, 4),
    "conv1d same": lambda s: F.conv1d(s, weights(4, 8, 4), padding="same"),
    "conv1d depthwise": lambda s: F.conv1d(s, weights(8, 1, 3), None, 1, 1, 1, 8),
    "conv3d": lambda d: F.conv3d(d, weights(3, 4, 2, 2, 2)),
    "conv3d attributes": lambda d: F.conv3d(
        d, weights(4, 2, 2, 3, 2), weights(4), (1, 2, 1), (0, 1, 1), (2, 1, 1), 2
    ),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, weights(8, 4, 3, 3)),
    "conv_transpose2d stride": lambda x: F.conv_transpose2d(
        x, weights(8, 4, 3, 3), weights(4), 2, 1, 1
    ),
    "conv_transpose2d groups": lambda x: F.conv_transpose2d(
        x, weights(8, 3, 3, 2), None, (2, 3), (1, 0), (0, 2), 2, (1, 2)
    ),
    "conv_transpose2d depthwise": lambda x: F.conv_transpose2d(
        x, weights(8, 1, 2, 2), None, 2, 0, 0, 8
    ),
    "conv_transpose2d padding": lambda x: F.conv_transpose2d(x, weights(8, 4, 3, 3), None, 1, 2),
    "conv_transpose2d big padding": lambda x: F.conv_transpose2d(
        x, weights(8, 4, 2, 2), None, 2, 3
    ),
    "conv_transpose1d": lambda s: F.conv_transpose1d(s, weights(8, 4, 3)),
    "conv_transpose1d attributes": lambda s: F.conv_transpose1d(
        s, weights(8, 2, 3), weights(4), 3, 1, 2, 2, 2
    ),
    "conv_transpose3d": lambda d: F.conv_transpose3d(
        d, weights(4, 3, 2, 2, 2), weights(3), 2, 1, 1
    ),
}

POOLS: dict[str, Function] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d attributes": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d ceil": lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max_pool2d ceil padded": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool2d ceil dropped window": lambda x: F.max_pool2d(x, 2, 3, 1, ceil_mode=True),
    "max_pool2d dilation": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max_pool2d dilation ceil": lambda x: F.max_pool2d(x, 2, 2, 1, (1, 2), True),
    "max_pool2d rectangle": lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0)),
    "max_pool2d stride": lambda x: F.max_pool2d(x, 1, 2),
    "max_pool2d int": lambda i: F.max_pool2d(i.float(), 2),
    "max_pool2d unbatched": lambda x: F.max_pool2d(x[:, 0], 2),
    "max_pool2d negative": lambda x: F.max_pool2d(-x.abs() - 1, 3, 2, 1),
    "max_pool2d indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
    "max_pool1d": lambda s: F.max_pool1d(s, 3, 2, 1),
    "max_pool1d ceil": lambda s: F.max_pool1d(s, 3, 2, ceil_mode=True),
    "max_pool1d dilation": lambda s: F.max_pool1d(s, 3, 1, 1, 2),
    "max_pool3d": lambda d: F.max_pool3d(d, 2),
    "max_pool3d attributes": lambda d: F.max_pool3d(d, (2, 3, 2), (1, 2, 2), (1, 1, 0)),
    "min pool": lambda x: -F.max_pool2d(-x, 3, 2, 1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool2d padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool2d not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool2d ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "avg_pool2d ceil padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d ceil padded not counted": lambda x: F.avg_pool2d(
        x, 3, 2, 1, ceil_mode=True, count_include_pad=False
    ),
    "avg_pool2d ceil dropped window": lambda x: F.avg_pool2d(x, 2, 3, 1, ceil_mode=True),
    "avg_pool2d divisor": lambda x: F.avg_pool2d(x, 2, 2, divisor_override=3),
    "avg_pool2d divisor padded": lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=1),
    "avg_pool2d divisor ceil": lambda x: F.avg_pool2d(
        x, 3, 2, 1, ceil_mode=True, divisor_override=5
    ),
    "avg_pool2d divisor negative": lambda x: F.avg_pool2d(x, 2, divisor_override=-2),
    "avg_pool2d rectangle": lambda x: F.avg_pool2d(x, (3, 2), (1, 2), (1, 0)),
    "avg_pool2d whole": lambda x: F.avg_pool2d(x, (6, 5)),
    "avg_pool1d": lambda s: F.avg_pool1d(s, 3, 2, 1),
    "avg_pool1d ceil not counted": lambda s: F.avg_pool1d(s, 3, 2, 1, True, False),
    "avg_pool3d": lambda d: F.avg_pool3d(d, 2, 1, 1),
    "avg_pool3d divisor": lambda d: F.avg_pool3d(d, 2, divisor_override=3),
    "adaptive_avg_pool2d 1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (4, 2)),
    "adaptive_avg_pool2d None": lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
    "adaptive_avg_pool2d larger": lambda x: F.adaptive_avg_pool2d(x, (9, 7)),
    "adaptive_avg_pool1d": lambda s: F.adaptive_avg_pool1d(s, 5),
    "adaptive_avg_pool3d": lambda d: F.adaptive_avg_pool3d(d, (2, 3, 4)),
    "adaptive_max_pool2d 1": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (4, 2)),
    "adaptive_max_pool2d None": lambda x: F.adaptive_max_pool2d(x, (None, 1)),
    "adaptive_max_pool2d larger": lambda x: F.adaptive_max_pool2d(x, (9, 7)),
    "adaptive_max_pool2d divides": lambda x: F.adaptive_max_pool2d(x, (3, 5)),
    "adaptive_max_pool1d": lambda s: F.adaptive_max_pool1d(s, 5),
    "adaptive_max_pool3d": lambda d: F.adaptive_max_pool3d(d, (2, 3, 4)),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2, 2),
    "lp_pool2d 1": lambda x: F.lp_pool2d(x.abs(), 1, 3, 2),
    "lp_pool2d 3": lambda x: F.lp_pool2d(x.abs() + 0.1, 3, (2, 3)),
    "lp_pool2d ceil": lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2, ceil_mode=True),
    "lp_pool1d": lambda s: F.lp_pool1d(s, 2, 3),
    "fractional free": lambda x: F.max_pool2d(x[:, :, :5], 2),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x[..., :4], 2, return_indices=True), 2),
}

NORMALISATIONS: dict[str, Function] = {
    "batch_norm": lambda x: F.batch_norm(x, weights(8), weights(8).abs() + 0.1),
    "batch_norm affine": lambda x: F.batch_norm(
        x, weights(8), weights(8).abs() + 0.1, -weights(8), weights(8) * 2, eps=1e-2
    ),
    "batch_norm weight": lambda x: F.batch_norm(x, weights(8), weights(8) ** 2 + 1, -weights(8)),
    "batch_norm vector": lambda v: F.batch_norm(v, weights(16), weights(16).abs() + 0.1),
    "batch_norm sequence": lambda s: F.batch_norm(s, weights(8), weights(8).abs() + 0.1),
    "batch_norm volume": lambda d: F.batch_norm(d, weights(4), weights(4).abs() + 0.1),
    "batch_norm no statistics": lambda x: F.batch_norm(
        x, None, None, weights(8), weights(8) * 2, training=True
    ),
    "batch_norm no statistics plain": lambda x: F.batch_norm(x, None, None, training=True),
    "batch_norm no statistics vector": lambda v: F.batch_norm(v, None, None, training=True),
    "instance_norm": lambda x: F.instance_norm(x),
    "instance_norm affine": lambda x: F.instance_norm(
        x, weight=weights(8), bias=weights(8) * 2, eps=1e-3
    ),
    "instance_norm sequence": lambda s: F.instance_norm(s),
    "instance_norm statistics": lambda x: F.instance_norm(
        x, weights(8), weights(8).abs() + 0.1, use_input_stats=False
    ),
    "group_norm": lambda x: F.group_norm(x, 4),
    "group_norm affine": lambda x: F.group_norm(x, 2, weights(8), weights(8) * 2, 1e-3),
    "group_norm one": lambda x: F.group_norm(x, 1, weights(8)),
    "group_norm all": lambda x: F.group_norm(x, 8, None, weights(8)),
    "group_norm vector": lambda v: F.group_norm(v, 4),
    "group_norm sequence": lambda s: F.group_norm(s, 4, weights(8), weights(8)),
    "layer_norm": lambda t: F.layer_norm(t, (16,)),
    "layer_norm affine": lambda t: F.layer_norm(t, (16,), weights(16), weights(16) * 2, 1e-3),
    "layer_norm weight": lambda t: F.layer_norm(t, (16,), weights(16)),
    "layer_norm image": lambda x: F.layer_norm(x, (8, 6, 5)),
    "layer_norm image affine": lambda x: F.layer_norm(x, (6, 5), weights(6, 5), weights(6, 5) * 2),
    "layer_norm large mean": lambda t: F.layer_norm(t + 1000, (16,)),
    "rms_norm": lambda t: F.rms_norm(t, (16,)),
    "rms_norm affine": lambda t: F.rms_norm(t, (16,), weights(16), 1e-3),
    "rms_norm image": lambda x: F.rms_norm(x, (6, 5)),
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "local_response_norm attributes": lambda x: F.local_response_norm(x, 4, 0.1, 0.5, 2.0),
    "weight standardised": lambda x: F.conv2d(
        x, (weights(4, 8, 3, 3) - weights(4, 8, 3, 3).mean((1, 2, 3), keepdim=True))
    ),
    "standardised image": lambda x: (
        (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
    ),
}
