"""Kernels with sums of rows, and packed bits or bytes, behind them; against the unscheduled one."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

from tests.support.schedule_nets import (
    AVX2,
    AVX512,
    LANES,
    SSE,
    arguments,
    compile_function,
    module,
    only_primfunc,
    symbolic,
)
from tvm_insta import ops
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import schedule_module

TARGETS = [SSE, AVX2, AVX512]
READERS = ["rows", "words", "both", "bytes", "rows and bytes"]
# height, width, channels: a prime width, channels that are no whole words, an image of one pixel
SHAPES = [(8, 14, 64), (5, 7, 32), (3, 11, 96), (4, 6, 40), (2, 3, 24), (1, 1, 32), (7, 1, 16)]


def usable(target):
    if target is not AVX512:
        return True
    host = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
    return "avx512vpopcntdq" in tvm.target.codegen.llvm_get_cpu_features(host)


def read(emit, y, threshold, readers, pad):
    """The readers of y, and y."""
    results = [y]
    if readers in ("rows", "both", "rows and bytes"):
        results.append(emit(ops.moment_rows(y, orders=[3])))
    if readers in ("words", "both"):
        results.append(emit(ops.threshold_pack(y, threshold, pad=pad)))
    if readers in ("bytes", "rows and bytes"):
        results.append(emit(ops.threshold_signs(y, threshold, pad=pad)))
    return results


def conv_net(shape, target, readers, pad, batch, *, binary, epilogue):
    height, width, out = shape
    lanes = LANES[target]
    while out % lanes:
        lanes //= 2
    n = symbolic(batch)
    if binary:
        specs = [
            ("data", [n, height + 2, width + 2, 2], "uint32"),
            ("weight", [out // lanes, 3, 3, 2, lanes], "uint32"),
            ("base", [2, 2, out], "int32"),
            ("row_class", [height], "int32"),
            ("col_class", [width], "int32"),
        ]
    else:
        specs = [
            ("data", [n, height, width, 5], "float32"),
            ("weight", [out // lanes, 3, 3, 5, lanes], "float32"),
        ]
    specs += [("residual", [n, height, width, out], "float32")]
    specs += [("threshold", [1, 1, 1, 1, out], "float32")]

    def body(emit, *args):
        *layer, residual, threshold = args
        if binary:
            y = emit(ops.bitserial_conv2d_blocked(*layer))
            y = emit(relax.op.astype(y, "float32"))
        else:
            y = emit(ops.conv2d_blocked(*layer, padding=[1, 1, 1, 1]))
        if epilogue:
            y = emit(relax.op.nn.relu(emit(relax.op.add(y, residual))))
        return relax.Tuple(read(emit, y, threshold, readers, pad))

    return module(specs, body)


def sweep_net(shape, readers, pad, batch):
    height, width, channels = shape
    n = symbolic(batch)
    specs = [
        ("x", [n, height, width, channels], "float32"),
        ("shift", [n, 1, 1, channels], "float32"),
        ("threshold", [1, n, 1, 1, channels], "float32"),
    ]

    def body(emit, x, shift, threshold):
        shifted = emit(relax.op.subtract(x, shift))
        y = emit(relax.op.where(emit(relax.op.greater(shifted, relax.const(0.0))), shifted, x))
        return relax.Tuple(read(emit, y, threshold, readers, pad))

    return module(specs, body)


def check(mod, rule, rng, target):
    """One kernel, scheduled by `rule`, with the bits of the unscheduled one in every output."""
    plain = fuse(mod, consumers=True)
    (before,) = [f for f in plain.functions.values() if not isinstance(f, relax.Function)]
    result, (record,) = schedule_module(plain, target, lanes=LANES[target])
    assert (record.rule, record.reason) == (rule, "")
    outputs = len(plain["main"].body.body.ty.fields)
    arrays = arguments(before, rng, batch=3)
    got, expected = (
        run(function, target, arrays)[-outputs:] for function in (only_primfunc(result), before)
    )
    for ours, reference in zip(got, expected, strict=True):
        assert ours.tobytes() == reference.tobytes()


def run(function, target, arrays):
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    compile_function(function, target)["main"](*tensors)
    return [tensor.numpy() for tensor in tensors]


PADS = [[1, 1, 1, 1], [0, 0, 0, 0], [0, 2, 1, 0]]
BATCHES = [None, 1, 2]


def pick(targets, shape, readers):
    """One target for each case, so that all of them meet shapes and readers of every kind."""
    return targets[(SHAPES.index(shape) + READERS.index(readers)) % len(targets)]


@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sweep(rng, shape, readers):
    target = pick([t for t in TARGETS if usable(t)], shape, readers)
    number = TARGETS.index(target)
    check(sweep_net(shape, readers, PADS[number], BATCHES[number]), "sweep", rng, target)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "float"])
@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution(rng, shape, readers, binary):
    rule = "insta_bconv" if binary else "insta_fconv"
    # LLVM may fuse a float convolution's multiplications and additions where the CPU can.
    target = pick([t for t in TARGETS if usable(t) and (binary or t is not AVX512)], shape, readers)
    number = TARGETS.index(target)
    kind = {"binary": binary, "epilogue": number != 1}
    net = conv_net(shape, target, readers, PADS[number], BATCHES[number], **kind)
    check(net, rule, rng, target)
