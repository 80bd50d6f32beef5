"""`insta.repeat_channels`: the channels of an image several times over, side by side.

data [N, H, W, C] float32; result [N, H, W, times * C] float32:

    out[n, y, x, o] = data[n, y, x, o % C]

Parallel branches that add the same shortcut are computed as one convolution, which adds this. It is
never meant to be a tensor: fused into an epilogue it is a load.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te

from ._common import INJECTIVE, Dim, extent, known
from ._declare import Argument, Attributes, Operator, integer


@dataclass(frozen=True, kw_only=True)
class RepeatChannels(Attributes):
    """See the module's docstring.

    Attributes:
        times: how often the channels are repeated.
    """

    times: int = integer(low=1)


def _type_of(_: relax.Call, attributes: RepeatChannels, data: list[Dim]) -> relax.TensorType:
    return relax.TensorType([*data[:3], known(data[3]) * attributes.times], "float32")


def te_repeat_channels(data: te.Tensor, attributes: RepeatChannels) -> te.Tensor:
    """TE of the operator: one block, "repeat_channels"."""
    *image, channels = data.shape
    count = known(channels)
    return te.compute(
        [*image, extent(count * attributes.times)],
        lambda n, y, x, o: data(n, y, x, o % count),
        name="repeat_channels",
    )


repeat_channels = Operator(
    "repeat_channels",
    [Argument("data", "float32", 4, known=[3])],
    RepeatChannels,
    _type_of,
    te_repeat_channels,
    pattern=INJECTIVE,
)
