"""Packed words and the integers made of them: the numpy oracle's, on every machine."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from tvm import relax

from tests.cross.machines import A76, ARM, ARMV7, X86
from tvm_insta import ops
from tvm_insta.codegen.plain_c import c_form
from tvm_insta.ops import packing, reference
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import fuse, run_phase
from tvm_insta.runtime import cpu
from tvm_insta.schedules import schedule_module
from tvm_insta.target import parse

# height, width, channels, groups, bits, comparison, pad, thresholds belong to a channel or instance
PACKS = {
    "one channel, padded": (4, 3, 1, 1, 1, "ge", [1, 1, 1, 1], "channel"),
    "odd channels": (3, 5, 33, 1, 1, "gt", [0, 0, 0, 0], "instance"),
    "two words": (2, 3, 64, 1, 1, "le", [2, 0, 0, 1], "channel"),
    "2 bits, groups": (3, 3, 66, 2, 2, "lt", [0, 0, 0, 0], "channel"),
    "4 bits": (2, 2, 40, 1, 4, "ge", [1, 0, 1, 0], "channel"),
}
VALUES = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, np.inf, -np.inf, np.nan)
SUBNORMAL = (1e-40, -1e-40, 1e-45)
"""The vector unit of 32-bit Arm takes every one of them for a zero."""

# height, width, channels, out, kernel, stride, padding, dilation, groups, bits, encoding
CONVOLUTIONS = {
    "3x3 padded": (9, 8, 64, 32, 3, 1, 1, 1, 1, 1, "bipolar"),
    "3x3 stride 2": (9, 8, 64, 48, 3, 2, 1, 1, 1, 1, "bipolar"),
    "1x1": (5, 7, 96, 64, 1, 1, 0, 1, 1, 1, "bipolar"),
    "5x5, odd channels": (8, 6, 33, 17, 5, 1, 2, 1, 1, 1, "bipolar"),
    "7x7 stride 2, one channel": (12, 11, 1, 16, 7, 2, 3, 1, 1, 1, "bipolar"),
    "dilated": (9, 9, 32, 16, 3, 1, 2, 2, 1, 1, "bipolar"),
    "groups": (6, 6, 66, 32, 3, 1, 1, 1, 2, 1, "bipolar"),
    "3x3, uneven tiles": (7, 7, 128, 64, 3, 1, 1, 1, 1, 1, "bipolar"),
    "3x3, few channels": (6, 10, 16, 16, 3, 1, 1, 1, 1, 1, "bipolar"),
    "1x1, 3 words": (4, 6, 80, 32, 1, 1, 0, 1, 1, 1, "bipolar"),
    "9x9": (12, 12, 32, 16, 9, 1, 4, 1, 1, 1, "bipolar"),
    "one pixel wide": (7, 1, 64, 16, 3, 1, 1, 1, 1, 1, "bipolar"),
    "2 bits unsigned": (6, 5, 40, 16, 3, 1, 1, 1, 1, 2, "unsigned"),
    "3 bits bipolar": (6, 5, 40, 16, 3, 1, 1, 1, 1, 3, "bipolar"),
    "4 bits unsigned, stride 2": (7, 7, 64, 32, 3, 2, 1, 1, 1, 4, "unsigned"),
    "groups of 2 outputs": (5, 5, 128, 8, 3, 1, 1, 1, 4, 1, "bipolar"),
}

# Convolutions whose result is compared and packed where its tiles are: even and uneven tiles.
CHAINED = ("3x3 padded", "3x3, uneven tiles", "1x1, 3 words")


def relax_module(x, body):
    """A Relax function of `x`; `body` gets the builder's emit and the variable."""
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(list(x.shape), "float32"))
    with builder.function("main", [data]):
        with builder.dataflow():
            output = builder.emit_output(body(builder.emit, data))
        builder.emit_func_output(output)
    return builder.get()


def packing_network(case, values, rng):
    """Thresholds alone, whose words leave the network: module, input, the oracle's words."""
    height, width, channels, groups, bits, compare, pad, owner = case
    x = rng.choice(np.float32(values), (1, height, width, channels))
    thresholds = rng.choice(np.float32(values), (2**bits - 1, 1, 1, 1, channels))
    attrs = {"bits": bits, "groups": groups, "compare": compare, "pad": pad}
    if owner == "instance":  # an instance's thresholds are computed from it: here its first pixel
        thresholds = x[None, :, :1, :1]

    def body(emit, data):
        if owner == "channel":
            return ops.threshold_pack(data, relax.const(thresholds), **attrs)
        pixel = emit(relax.op.strided_slice(data, [1, 2], [0, 0], [1, 1]))
        pixel = emit(relax.op.reshape(pixel, list(thresholds.shape)))
        return ops.threshold_pack(data, pixel, **attrs)

    return relax_module(x, body), x, reference.threshold_pack(x, thresholds, **attrs)


def convolution_network(case, rng):
    """Thresholds and a binary convolution: module, input, the oracle's integers."""
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

    def body(emit, data):
        packed = ops.threshold_pack(data, relax.const(thresholds), bits=bits, groups=groups)
        return ops.bitserial_conv2d(emit(packed), relax.const(weight), **conv)

    words = reference.threshold_pack(x, thresholds, bits=bits, groups=groups)
    expected = reference.bitserial_conv2d(words, weight, **conv).astype(np.int32)
    return relax_module(x, body), x, expected


def chain_network(case, rng):
    """A binary convolution whose result is packed again: module, input, the oracle's words."""
    mod, x, integers = convolution_network(case, rng)
    thresholds = rng.integers(-20, 21, (1, 1, 1, 1, integers.shape[3])).astype(np.float32)
    builder = relax.BlockBuilder()
    main = mod["main"]
    with builder.function("main", main.params):
        with builder.dataflow():
            for binding in main.body.blocks[0].bindings:
                builder.emit_normalized(binding)
            result = builder.emit(relax.op.astype(main.body.body, "float32"))
            packed = builder.emit_output(ops.threshold_pack(result, relax.const(thresholds)))
        builder.emit_func_output(packed)
    words = reference.threshold_pack(integers.astype(np.float32), thresholds)
    return builder.get(), x, words


def neon_rule(machine, case):
    """The rule that schedules a binary convolution on an Arm core; None on other machines."""
    *_, out, _, _, _, _, groups, bits, _ = case
    if machine not in ARM:
        return None
    if groups > 1 or out % 16 or (machine is ARMV7 and bits > 1):
        return "insta_bconv"
    if machine is A76 and bits == 1:
        return "insta_bconv"  # with dot products
    return "insta_bconv_pairs" if machine is ARMV7 else "insta_bconv_bytes"


def run_compiled(machine, target, mod, x, expected, folder, wanted, *, consumers=False):
    """Compile with the project's own passes and schedules, and run; returns `expected`'s like."""
    kernels = fuse(run_phase("lower", mod, Context(target)), consumers=consumers)
    if consumers:
        assert any("conv2d" in v.name_hint and "pack" in v.name_hint for v in kernels.functions)
    scheduled, records = schedule_module(kernels, target.tvm, lanes=target.lanes)
    assert "unscheduled" not in {record.rule for record in records}
    if wanted is not None:
        assert (wanted, "") in {(record.rule, record.reason) for record in records}, records
    c_form(scheduled, target, folder)
    return machine.run(machine.link(folder), x, expected.shape[1:], expected.dtype)


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("machine", [*X86, *ARM], ids=lambda machine: machine.name)
def test_words_and_integers_are_those_of_the_oracle(machine, tmp_path):
    machine.require()
    target = parse(machine.target)
    if machine in X86 and (platform.machine() != "x86_64" or cpu.missing(target.needs)):
        pytest.skip(f"this processor cannot run {machine.name} code")
    values = (*VALUES, *SUBNORMAL)
    networks = {
        **{
            name: packing_network(case, values, np.random.default_rng(seed))
            for seed, (name, case) in enumerate(PACKS.items())
        },
        **{
            name: convolution_network(case, np.random.default_rng(seed))
            for seed, (name, case) in enumerate(CONVOLUTIONS.items())
        },
    }
    assert len(networks) == len(PACKS) + len(CONVOLUTIONS)
    for case in CHAINED:
        networks[f"{case}, packed"] = chain_network(CONVOLUTIONS[case], np.random.default_rng(1))
    for number, (name, (mod, x, expected)) in enumerate(networks.items()):
        chained = name.removesuffix(", packed")
        wanted = neon_rule(machine, CONVOLUTIONS[chained]) if chained in CONVOLUTIONS else None
        if name in ("5x5, odd channels", "groups of 2 outputs") and machine is A76:
            wanted = None  # refused by the dot products, and said so in the record
        consumers = name != chained
        folder = tmp_path / str(number)
        found = run_compiled(machine, target, mod, x, expected, folder, wanted, consumers=consumers)
        assert found.tobytes() == expected.tobytes(), name
