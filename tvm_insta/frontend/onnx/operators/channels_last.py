"""QONNX operators on images whose channels come last."""

from __future__ import annotations

from torch import Tensor

from tvm_insta.frontend.onnx.operators import layers, normalise, pools
from tvm_insta.frontend.onnx.operators.qonnx import DOMAINS
from tvm_insta.frontend.onnx.operators.registry import Context, Result, operator
from tvm_insta.frontend.onnx.operators.window import AutoPad

CHANNELS_LAST = "qonnx.custom_op.channels_last"


def _first(x: Tensor) -> Tensor:
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


def _last(x: Tensor) -> Tensor:
    return x.permute(0, *range(2, x.ndim), 1)


@operator("Conv", domains=(CHANNELS_LAST,), layer=True)
def conv_last(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Convolution of ``[N, ..., C]`` with ``[O, ..., C / group]``."""
    return _last(
        layers.conv(
            _first(x),
            _first(w),
            b,
            auto_pad=auto_pad,
            dilations=dilations,
            group=group,
            kernel_shape=kernel_shape,
            pads=pads,
            strides=strides,
        )
    )


@operator("MaxPool", domains=(CHANNELS_LAST,))
def max_pool_last(
    x: Tensor,
    *,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: tuple[int, ...] = (),
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] = (),
    storage_order: int = 0,
    strides: tuple[int, ...] = (),
    context: Context,
) -> Result:
    """The largest of each window of ``[N, ..., C]``."""
    result = pools.max_pool(
        _first(x),
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        dilations=dilations,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
        context=context,
    )
    assert isinstance(result, Tensor)
    return _last(result)


@operator("BatchNormalization", domains=(CHANNELS_LAST,), ignored=("momentum",))
def batch_normalization_last(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    training_mode: bool = False,
    context: Context,
) -> Result:
    """Normalisation of ``[N, ..., C]``."""
    result = normalise.batch_normalization(
        _first(x),
        scale,
        bias,
        mean,
        variance,
        epsilon=epsilon,
        training_mode=training_mode,
        context=context,
    )
    assert isinstance(result, Tensor)
    return _last(result)


@operator("MaxPoolNHWC", domains=DOMAINS)
def max_pool_nhwc(
    x: Tensor,
    *,
    ceil_mode: bool = False,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
    context: Context,
) -> Result:
    """The largest of each window of ``[N, H, W, C]``."""
    return max_pool_last(
        x,
        ceil_mode=ceil_mode,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
        context=context,
    )
