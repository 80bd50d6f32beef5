"""Problems for the bit-serial convolutions, and their definition in torch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck
from hypothesis import strategies as st

from tvm_insta.ops import packing

torch.set_num_threads(1)  # tiny convolutions: threads only get in each other's way
SLOW_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def problem(rng, case):
    """Random codes and signs of a case, packed: (codes, signs, data, weight)."""
    shape = (case["batch"], *case["image"], case["in_channels"])
    codes = rng.integers(0, 2 ** case["bits"], shape)
    per_group = case["in_channels"] // case["groups"]
    signs = rng.choice([-1, 1], (case["out"], *case["kernel"], per_group))
    data = packing.pack_codes(codes, case["bits"], case["groups"])
    return codes, signs, data, packing.pack_weight(signs)


def make(image, kernel, **changes):
    case = dict(
        batch=1,
        image=image,
        in_channels=40,
        out=8,
        kernel=kernel,
        strides=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
        bits=1,
        encoding="bipolar",
        lanes=4,
    )
    return case | changes


def conv_attrs(case):
    names = ("strides", "padding", "dilation", "groups", "in_channels", "bits", "encoding")
    return {name: case[name] for name in names}


def torch_conv(codes, signs, case):
    """The definition, in torch: exact, for all values and sums are small integers in float64."""
    values = torch.from_numpy(codes.astype(np.float64))
    if case["encoding"] == "bipolar":
        values = 2 * values - (2 ** case["bits"] - 1)
    top, left, bottom, right = case["padding"]
    image = torch.nn.functional.pad(values.permute(0, 3, 1, 2), (left, right, top, bottom))
    result = torch.nn.functional.conv2d(
        image,
        torch.from_numpy(signs.astype(np.float64)).permute(0, 3, 1, 2),
        stride=case["strides"],
        dilation=case["dilation"],
        groups=case["groups"],
    )
    return result.permute(0, 2, 3, 1).numpy().astype(np.int32)


def blocked_arguments(case, data, weight, counts="pieces"):
    """What the compiler does: pad with 0 words, block the weight, compute the border tables."""
    channels = case["in_channels"] // case["groups"]
    top, left, bottom, right = case["padding"]
    padded = np.pad(data, ((0, 0), (top, bottom), (left, right), (0, 0)))
    tables = packing.border_tables(
        weight,
        case["image"],
        strides=case["strides"],
        padding=case["padding"],
        dilation=case["dilation"],
        in_channels_per_group=channels,
        bits=case["bits"],
        encoding=case["encoding"],
    )
    if counts == "nibbles":
        blocked = packing.block_nibbles(weight, case["lanes"], channels)
    else:
        blocked = packing.block_weight(weight, case["lanes"])
    attrs = {name: case[name] for name in ("strides", "dilation", "groups", "bits")}
    attrs["alpha"] = 2 if case["encoding"] == "bipolar" else 1
    return (padded, blocked, *tables), attrs


def runs_arguments(case, data, weight):
    """The same for `bitserial_conv2d_runs`, which has neither groups nor dilation."""
    (padded, _, base, *classes), attrs = blocked_arguments(case, data, weight)
    base = packing.run_base(base, weight, case["bits"], case["encoding"])
    attrs = {name: attrs[name] for name in ("strides", "bits", "alpha")}
    attrs["kernel_width"] = case["kernel"][1]
    return (padded, packing.run_weight(weight), base, *classes), attrs


def has_runs(case):
    return case["groups"] == 1 and case["dilation"] == (1, 1)


def fits(case):
    top, left, bottom, right = case["padding"]
    reach = [d * (k - 1) + 1 for d, k in zip(case["dilation"], case["kernel"], strict=True)]
    height, width = case["image"]
    return height + top + bottom >= reach[0] and width + left + right >= reach[1]


KERNEL_CASES = {
    "3x3": make((5, 6), (3, 3), padding=(1, 1, 1, 1), batch=2),
    "3x3 stride 2": make((7, 6), (3, 3), padding=(1, 1, 1, 1), strides=(2, 2)),
    "1x1": make((3, 2), (1, 1), out=16, lanes=16),
    "1x1 stride 2": make((5, 4), (1, 1), strides=(2, 2), in_channels=64),
    "5x5 wider than the image": make((3, 3), (5, 5), padding=(2, 2, 2, 2)),
    "7x7 stride 2": make((9, 8), (7, 7), padding=(3, 3, 3, 3), strides=(2, 2), in_channels=3),
    "1x7": make((4, 9), (1, 7), padding=(0, 3, 0, 3)),
    "6x2 lopsided padding": make((6, 5), (6, 2), padding=(3, 0, 2, 1)),
    "one pixel": make((1, 1), (3, 3), padding=(1, 1, 1, 1)),
    "one row": make((1, 7), (3, 3), padding=(1, 1, 1, 1)),
    "one column stride 2": make((7, 1), (3, 3), padding=(1, 1, 1, 1), strides=(2, 2)),
    "dilation": make((8, 7), (3, 3), padding=(2, 3, 2, 3), dilation=(2, 3)),
    "groups": make((4, 4), (3, 3), padding=(1, 1, 1, 1), groups=2, in_channels=66, out=8),
    "groups inside a block": make((4, 4), (3, 3), groups=4, in_channels=8, out=12, lanes=12),
    "depthwise": make((4, 4), (3, 3), padding=(1, 1, 1, 1), groups=8, in_channels=8, lanes=8),
    "prime output": make((4, 4), (3, 3), padding=(1, 1, 1, 1), out=7, lanes=7),
    "one lane": make((4, 4), (3, 3), padding=(1, 1, 1, 1), out=3, lanes=1),
    "2 bits bipolar": make((4, 5), (3, 3), padding=(1, 1, 1, 1), bits=2),
    "4 bits bipolar groups": make(
        (4, 5), (3, 3), padding=(1, 1, 1, 1), bits=4, groups=2, in_channels=20
    ),
    "1 bit unsigned": make((4, 5), (3, 3), padding=(1, 1, 1, 1), encoding="unsigned"),
    "3 bits unsigned groups": make(
        (5, 4),
        (3, 3),
        padding=(1, 1, 1, 1),
        strides=(2, 2),
        bits=3,
        encoding="unsigned",
        groups=2,
        in_channels=70,
    ),
}


@st.composite
def conv_cases(draw):
    groups = draw(st.integers(1, 3))
    bits = draw(st.integers(1, 4))
    per_group_out = draw(st.integers(1, 6))
    out = groups * per_group_out
    kernel = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    case = make(
        (draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        kernel,
        batch=draw(st.integers(1, 2)),
        in_channels=groups * draw(st.integers(1, 40)),
        out=out,
        strides=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=tuple(draw(st.integers(0, k)) for k in (*kernel, *kernel)),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
        bits=bits,
        encoding=draw(st.sampled_from(["bipolar", "unsigned"])),
        lanes=draw(st.sampled_from([lanes for lanes in range(1, out + 1) if out % lanes == 0])),
    )
    return case
