"""Small Relax modules of one kernel each, and their PrimFuncs with and without a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax import TensorType

from tvm_insta import ops
from tvm_insta.schedules import ConvTiles, ScheduleRecord, schedule_module

# No FMA on purpose: LLVM fuses a multiplication and an addition where it sees both in one loop.
# Without that instruction, float results can be compared bit for bit.
SSE = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64"})
AVX2 = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64", "mattr": ["+avx2"]})
SSSE3 = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64", "mattr": ["+ssse3"]})
AVX512 = tvm.target.Target({"kind": "llvm", "mcpu": "icelake-server"})
LANES = {SSE: 4, SSSE3: 4, AVX2: 8, AVX512: 16}

Spec = tuple[str, Sequence[Any], str]


def symbolic(batch: int | None) -> Any:
    """`batch`, or a symbolic dimension for None."""
    return tirx.Var("n", "int64") if batch is None else batch


def module(specs: Sequence[Spec], body: Callable[..., Any]) -> tvm.ir.IRModule:
    """A module whose `main` has parameters (name, shape, dtype) and returns body(emit, *params)."""
    builder = relax.BlockBuilder()
    params = [relax.Var(name, TensorType(shape, dtype)) for name, shape, dtype in specs]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def legalise(mod: tvm.ir.IRModule) -> tvm.ir.IRModule:
    """Legalise and fuse, as the pipeline does before it schedules."""
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            passes.LegalizeOps(),
            passes.AnnotateTIROpPattern(),
            passes.FoldConstant(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.DeadCodeElimination(),
        ]
    )(mod)


def only_primfunc(mod: tvm.ir.IRModule) -> tirx.PrimFunc:
    """The single PrimFunc of a module."""
    (function,) = [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]
    return function


def scheduled(
    mod: tvm.ir.IRModule,
    target: tvm.target.Target,
    lanes: int,
    tiles: ConvTiles | None = None,
) -> tuple[tirx.PrimFunc, tirx.PrimFunc, ScheduleRecord]:
    """The PrimFunc of a module before and after scheduling, and its record."""
    plain = legalise(mod)
    (name,) = [v.name_hint for v, f in plain.functions.items() if isinstance(f, tirx.PrimFunc)]
    parameters = {name: tiles} if tiles else None
    result, (record,) = schedule_module(plain, target, lanes=lanes, parameters=parameters)
    return only_primfunc(plain), only_primfunc(result), record


def compile_function(function: tirx.PrimFunc, target: tvm.target.Target) -> Any:
    """An executable with the function as "main"."""
    named = function.with_attr("global_symbol", "main")
    return tvm.compile(tvm.ir.IRModule({"main": named}), target=target)


def arguments(function: tirx.PrimFunc, rng: np.random.Generator, batch: int) -> list[np.ndarray]:
    """Random arguments; the output, which is last, holds garbage that a kernel must overwrite."""
    arrays = []
    for parameter in function.params:
        shape = [int(d) if isinstance(d, tirx.IntImm) else batch for d in parameter.shape]
        dtype = str(parameter.dtype)
        if dtype == "uint32":
            array = rng.integers(0, 2**32, shape, dtype=np.uint32)
        elif dtype == "uint8":  # nibbles of a weight
            array = rng.integers(0, 16, shape, dtype=np.uint8)
        elif dtype == "int32":  # border classes (rank 1) are 0 or 1, other integers small
            array = rng.integers(0, 2 if len(shape) == 1 else 1000, shape).astype(np.int32)
        else:
            array = rng.standard_normal(shape).astype(dtype)
        arrays.append(array)
    return arrays


def execute(
    function: tirx.PrimFunc, target: tvm.target.Target, arrays: Sequence[np.ndarray]
) -> np.ndarray:
    """Run on copies of `arrays`; returns the output."""
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    compile_function(function, target)["main"](*tensors)
    return tensors[-1].numpy()


def check_equal_bits(
    mod: tvm.ir.IRModule,
    rule: str,
    rng: np.random.Generator,
    target: tvm.target.Target = AVX2,
    lanes: int | None = None,
    tiles: ConvTiles | None = None,
) -> ScheduleRecord:
    """Assert that the schedule is `rule` and gives the bits of the unscheduled function."""
    plain, result, record = scheduled(mod, target, lanes or LANES[target], tiles)
    assert (record.rule, record.reason) == (rule, "")
    arrays = arguments(plain, rng, batch=3)
    expected = execute(plain, target, arrays)
    assert execute(result, target, arrays).tobytes() == expected.tobytes()
    return record


def check_all(
    mod: tvm.ir.IRModule, rng: np.random.Generator, target: tvm.target.Target = AVX2
) -> list[str]:
    """Assert equal bits for every PrimFunc of a module; returns the rules that were used."""
    plain = legalise(mod)
    result, records = schedule_module(plain, target, lanes=LANES[target])
    for record in records:
        before, after = plain[record.function], result[record.function]
        arrays = arguments(before, rng, batch=3)
        expected = execute(before, target, arrays)
        assert execute(after, target, arrays).tobytes() == expected.tobytes(), record
    return [record.rule for record in records]


def binary_conv(
    height: int,
    width: int,
    channels: int,
    out: int,
    *,
    lanes: int,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bits: int = 1,
    batch: int | None = 1,
    epilogue: bool = False,
    counts: str = "pieces",
) -> tvm.ir.IRModule:
    """A blocked binary convolution with padding kernel // 2, bare or with the whole epilogue."""
    pad = kernel // 2 * dilation
    words, nibbles = -(-(channels // groups) // 32), -(-(channels // groups) // 4)
    taps = (nibbles, "uint8") if counts == "nibbles" else (words, "uint32")
    reach = dilation * (kernel - 1) + 1
    rows, columns = height + 2 * pad, width + 2 * pad
    out_h, out_w = (rows - reach) // stride + 1, (columns - reach) // stride + 1
    n = symbolic(batch)
    specs: list[Spec] = [
        ("data", [n, rows, columns, bits * groups * words], "uint32"),
        ("weight", [out // lanes, kernel, kernel, taps[0], lanes], taps[1]),
        ("base", [2, 2, out], "int32"),
        ("row_class", [out_h], "int32"),
        ("col_class", [out_w], "int32"),
    ]
    if epilogue:
        specs += [(name, [out], "float32") for name in ("scale", "bias", "shift", "slope", "back")]
        specs.append(("residual", [n, out_h, out_w, out], "float32"))

    def body(emit: Callable[[Any], Any], *args: Any) -> Any:
        attrs = {"strides": [stride] * 2, "dilation": [dilation] * 2, "groups": groups}
        attrs |= {"bits": bits, "alpha": 2, "counts": counts}
        y = emit(ops.bitserial_conv2d_blocked(*args[:5], **attrs))
        if not epilogue:
            return y
        scale, bias, shift, slope, back, residual = args[5:]
        y = emit(relax.op.multiply(emit(relax.op.astype(y, "float32")), scale))
        y = emit(relax.op.add(emit(relax.op.add(y, bias)), residual))
        y = emit(relax.op.nn.prelu(emit(relax.op.subtract(y, shift)), slope, axis=3))
        return emit(relax.op.add(y, back))

    return module(specs, body)


def float_conv(
    height: int,
    width: int,
    channels: int,
    out: int,
    *,
    lanes: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    groups: int = 1,
    batch: int | None = 1,
    epilogue: bool = False,
) -> tvm.ir.IRModule:
    """A blocked float convolution, bare or with scale, bias and ReLU."""
    specs: list[Spec] = [
        ("data", [symbolic(batch), height, width, channels], "float32"),
        ("weight", [out // lanes, kernel, kernel, channels // groups, lanes], "float32"),
    ]
    if epilogue:
        specs += [(name, [out], "float32") for name in ("scale", "bias")]

    def body(emit: Callable[[Any], Any], *args: Any) -> Any:
        attrs = {"strides": [stride] * 2, "padding": [padding] * 4, "dilation": [dilation] * 2}
        y = emit(ops.conv2d_blocked(*args[:2], **attrs, groups=groups))
        if not epilogue:
            return y
        y = emit(relax.op.add(emit(relax.op.multiply(y, args[2])), args[3]))
        return emit(relax.op.nn.relu(y))

    return module(specs, body)
