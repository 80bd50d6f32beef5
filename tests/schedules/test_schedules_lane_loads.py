"""Float convolutions on NEON: the same bits, fetched by vectors and kept in registers."""

from __future__ import annotations

import re

import pytest

from tests.support.schedule_nets import SSE, arguments, execute, float_conv, legalise, only_primfunc
from tvm_insta.codegen import raw
from tvm_insta.schedules import back_end, schedule_module
from tvm_insta.schedules.arm import families as arm
from tvm_insta.schedules.base import ConvTiles, Kernel, start
from tvm_insta.schedules.generic.conv import schedule_conv
from tvm_insta.schedules.generic.lane_loads import fetched_at_once, strip_cost
from tvm_insta.target import parse

# height, width, channels, out, lanes of a block, kernel, stride, dilation, groups
SHAPES = [
    (15, 16, 3, 32, 16, 7, 2, 1, 1),  # a strip
    (9, 13, 1, 16, 16, 3, 1, 1, 1),  # a prime width: 11 pixels
    (9, 9, 3, 16, 16, 3, 1, 2, 1),  # dilated
    (7, 9, 8, 32, 16, 3, 1, 1, 1),  # vectors of channels
    (8, 8, 4, 24, 8, 1, 2, 1, 1),
    (7, 7, 16, 16, 16, 1, 1, 1, 1),
    (5, 5, 6, 16, 16, 3, 1, 1, 1),  # vectors of two channels on armv7, a strip on AArch64
    (5, 5, 13, 16, 16, 3, 1, 1, 1),  # too many steps to unroll
    (1, 1, 64, 40, 8, 1, 1, 1, 1),  # a dense layer
    (6, 6, 8, 32, 16, 3, 1, 1, 2),  # groups
    (4, 6, 16, 16, 16, 3, 1, 1, 16),  # depthwise
    (5, 4, 3, 5, 1, 3, 1, 1, 1),  # one lane
]


@pytest.mark.parametrize("family", [arm.NEON, arm.ARMV7], ids=["neon", "armv7"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits(rng, shape, family):
    """Without an instruction that multiplies and adds, sums in the same order are equal."""
    *sizes, lanes, kernel, stride, dilation, groups = shape
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "groups": groups}
    plain = only_primfunc(legalise(float_conv(*sizes, lanes=lanes, **attrs)))
    work = Kernel(start(plain), family, 4, ConvTiles())
    rule, _ = schedule_conv(work)
    assert rule == "insta_fconv"
    arrays = arguments(plain, rng, batch=1)
    expected = execute(plain, SSE, arrays)
    assert execute(work.schedule.mod["main"], SSE, arrays).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("shape", "tiles"),
    [((224, 224, 3, 64, 7, 2), (8, 2)), ((28, 28, 64, 128, 1, 1), (4, 4))],
    ids=["stem", "shortcut"],
)
@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_loads_are_few_and_sums_stay_in_registers(core, shape, tiles):
    """At most a third of an instruction for each multiplication of the inner loop, by lanes."""
    *sizes, kernel, stride = shape
    target = parse(core).tvm
    attrs = {"kernel": kernel, "stride": stride, "padding": kernel // 2}
    net = float_conv(*sizes, lanes=back_end(target).float_block, **attrs)
    result, (record,) = schedule_module(legalise(net), target, lanes=4)
    assert (record.tiles.width_tile, record.tiles.out_tile) == tiles
    loop = inner_loop(raw.assembly({"kernel": only_primfunc(result)}, target))
    products = [line for line in loop if re.search(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[", line)]
    assert len(products) >= 64
    assert len(loop) <= 4 / 3 * len(products)
    assert not [line for line in loop if "[sp" in line]


def inner_loop(assembly: str) -> list[str]:
    """The instructions of the loop with most multiplications that holds no other loop."""
    found: list[list[str]] = []
    body: list[str] = []
    label = ""
    for line in assembly.splitlines():
        mark = re.match(r"(\.LBB\w+):", line)
        if mark:
            label, body = mark[1], []
        elif re.match(r"\s+[a-z]", line):
            body.append(line)
            if label and re.search(rf"\s(b\.\w+|cbnz\s+\w+,)\s+{re.escape(label)}$", line):
                found.append([*body])
    return max(found, key=lambda lines: sum("fmla" in line for line in lines))


def test_the_layout_of_float_weights():
    sizes = {
        core: back_end(parse(core).tvm).float_block for core in ("cortex-a53", "pixel", "armv7")
    }
    assert sizes == {"cortex-a53": 16, "pixel": 16, "armv7": 16}
    assert back_end(parse("avx2").tvm).float_block == back_end(parse("avx512").tvm).float_block == 0


def test_the_cost_of_a_tile():
    # 4 pixels by 4 vectors: 2 loads of weights and 1 of data for 16 multiplications
    assert strip_cost(4, 4, 4) == 3 / 16
    assert strip_cost(8, 2, 4) == 3 / 16
    assert strip_cost(16, 1, 4) > strip_cost(4, 4, 4)


def test_narrow_numbers_are_broadcast():
    """Then every pixel costs a load, and a tile of 4 x 4 beats one of 8 x 2."""
    assert fetched_at_once(["ky", "unit"], 4) == 1
    assert fetched_at_once(["ky", "kx", "c"], 4) == 4
    assert fetched_at_once(["ky", "unit"], 0) == fetched_at_once(["ky", "kx", "c"], 0) == 0
    assert strip_cost(4, 4, 1) < strip_cost(8, 2, 1)
