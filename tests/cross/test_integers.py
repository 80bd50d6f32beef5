"""Packed inputs give the same integers on every machine, and those of the numpy oracle."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from tvm import relax
from tvm_insta.schedules import schedule_module

from tests.cross.machines import ARM, X86
from tvm_insta import ops
from tvm_insta.codegen.plain_c import c_form
from tvm_insta.ops import packing, reference
from tvm_insta.passes.lower import lower
from tvm_insta.passes.pipeline import fuse
from tvm_insta.passes.report import Report
from tvm_insta.runtime import cpu
from tvm_insta.target import parse

# height, width, channels, out, kernel, stride, padding, dilation, groups, bits, encoding
CASES = {
    "3x3 padded": (9, 8, 64, 32, 3, 1, 1, 1, 1, 1, "bipolar"),
    "3x3 stride 2": (9, 8, 64, 48, 3, 2, 1, 1, 1, 1, "bipolar"),
    "1x1": (5, 7, 96, 64, 1, 1, 0, 1, 1, 1, "bipolar"),
    "5x5, odd channels": (8, 6, 33, 17, 5, 1, 2, 1, 1, 1, "bipolar"),
    "7x7 stride 2, one channel": (12, 11, 1, 16, 7, 2, 3, 1, 1, 1, "bipolar"),
    "dilated": (9, 9, 32, 16, 3, 1, 2, 2, 1, 1, "bipolar"),
    "groups": (6, 6, 66, 32, 3, 1, 1, 1, 2, 1, "bipolar"),
    "one pixel wide": (7, 1, 64, 16, 3, 1, 1, 1, 1, 1, "bipolar"),
    "2 bits unsigned": (6, 5, 40, 16, 3, 1, 1, 1, 1, 2, "unsigned"),
    "3 bits bipolar": (6, 5, 40, 16, 3, 1, 1, 1, 1, 3, "bipolar"),
    "4 bits unsigned, stride 2": (7, 7, 64, 32, 3, 2, 1, 1, 1, 4, "unsigned"),
}


def network(case, rng):
    """Thresholds and a binary convolution as a Relax module, and what the oracles make of x."""
    height, width, channels, out, kernel, stride, pad, dilation, groups, bits, encoding = case
    x = rng.integers(-4, 5, (1, height, width, channels)).astype(np.float32)  # many ties
    thresholds = np.sort(rng.integers(-3, 4, (2**bits - 1, 1, 1, 1, channels)), axis=0)
    thresholds = thresholds.astype(np.float32)
    signs = rng.integers(0, 2, (out, kernel, kernel, channels // groups))
    weight = packing.pack_bits(signs)
    conv = {
        "strides": [stride] * 2,
        "padding": [pad] * 4,
        "dilation": [dilation] * 2,
        "groups": groups,
        "in_channels": channels,
        "bits": bits,
        "encoding": encoding,
    }
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(list(x.shape), "float32"))
    with builder.function("main", [data]):
        with builder.dataflow():
            packed = builder.emit(
                ops.threshold_pack(data, relax.const(thresholds), bits=bits, groups=groups)
            )
            result = builder.emit(ops.bitserial_conv2d(packed, relax.const(weight), **conv))
            output = builder.emit_output(result)
        builder.emit_func_output(output)
    words = reference.threshold_pack(x, thresholds, bits=bits, groups=groups)
    return builder.get(), x, reference.bitserial_conv2d(words, weight, **conv)


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [*X86, *ARM], ids=lambda machine: machine.name)
def test_integers_are_those_of_the_oracle(machine, tmp_path):
    machine.require()
    target = parse(machine.target)
    if machine in X86 and (platform.machine() != "x86_64" or cpu.missing(target.needs)):
        pytest.skip(f"this processor cannot run {machine.name} code")
    for number, (name, case) in enumerate(CASES.items()):
        mod, x, expected = network(case, np.random.default_rng(number))
        kernels = fuse(lower(mod, Report(), target.lanes))
        scheduled, records = schedule_module(kernels, target.tvm, lanes=target.lanes)
        assert "unscheduled" not in {record.rule for record in records}, name
        folder = tmp_path / str(number)
        c_form(scheduled, target, folder)
        found = machine.run(machine.link(folder), x, expected.shape[1:], "int32")
        assert found.tobytes() == expected.astype(np.int32).tobytes(), (name, number)
