"""Running one candidate: its inputs, its timing, and whether it computes the right bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.ir import IRModule

from tvm_insta.errors import TuneError
from tvm_insta.schedules import PackedLayer, packed_layer
from tvm_insta.tuning.build import SYMBOL
from tvm_insta.tuning.workload import arguments_of, codes_of, counts_nibbles, outputs_of

Array = npt.NDArray[Any]

MIN_SECONDS = 5e-3
"""A repeat calls the kernel until this much time is gone: clock and calls then cost little."""

# A median this close to the fastest repeat was not disturbed: medians on an idle machine are within
# one or two per cent.
_CALM = 1.03
_ATTEMPTS = 6


def random_arrays(mod: IRModule, seed: int) -> list[Array]:
    """An array per parameter; outputs hold a pattern that no kernel writes by chance.

    Words are random bits, or pairs of bfloat16 where a kernel computes in these; bytes are, too, or
    hold four bits where a kernel counts as many; floats are normal.
    Of the integers, those of rank 1 are the border classes of rows and columns, so they stay within
    the table of corrections, which has rank 3.
    """
    generator = np.random.default_rng(seed)
    arguments = arguments_of(mod)
    tables = [shape for dtype, shape in arguments if dtype == "int32" and len(shape) == 3]
    classes = min(min(shape[:2]) for shape in tables) if tables else 1
    arrays: list[Array] = []
    runs = packed_layer(mod["main"])
    pairs, nibbles = codes_of(mod["main"]) == "uint16", counts_nibbles(mod["main"])
    for dtype, shape in arguments:
        if dtype == "uint32" and pairs and len(shape) == 5:  # a weight; random bits would hold NaN
            numbers = generator.standard_normal((*shape, 2)).astype(np.float32)
            halves = (numbers.view(np.uint32) >> 16).astype(np.uint16)
            arrays.append(halves.view(np.uint32)[..., 0])
        elif dtype == "uint16" and pairs and len(shape) == 5:  # the same for AMX tiles
            numbers = generator.standard_normal(shape).astype(np.float32)
            arrays.append((numbers.view(np.uint32) >> 16).astype(np.uint16))
        elif dtype == "uint32" and runs is not None and len(shape) == 5:
            arrays.append(_weight_of_runs(generator, shape, runs))
        elif dtype.startswith("uint"):
            most = 15 if dtype == "uint8" and nibbles else np.iinfo(dtype).max
            arrays.append(generator.integers(0, most, shape, dtype=dtype, endpoint=True))
        elif dtype == "int32" and len(shape) == 1:
            arrays.append(generator.integers(0, classes, shape, dtype=np.int32))
        elif dtype.startswith("float"):
            arrays.append(generator.standard_normal(shape).astype(dtype))
        else:
            arrays.append(generator.integers(-100, 100, shape).astype(dtype))
    for index in outputs_of(mod):
        blank = np.full(arrays[index].nbytes, 0xA5, np.uint8)
        arrays[index] = blank.view(arrays[index].dtype).reshape(arrays[index].shape)
    return arrays


def _weight_of_runs(
    generator: np.random.Generator, shape: tuple[int, ...], layer: PackedLayer
) -> Array:
    """A weight of `insta.bitserial_conv2d_runs`: what is behind its channels and words is 0."""
    weight = generator.integers(0, 2**32 - 1, shape, dtype=np.uint32, endpoint=True)
    channels, rows, steps, lanes, words = shape
    flat = weight.transpose(0, 3, 1, 2, 4).reshape(channels * lanes, rows, steps * words)
    flat[layer.out_channels :] = 0
    flat[:, :, layer.kernel[1] * layer.words :] = 0
    back = flat.reshape(channels, lanes, rows, steps, words).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(back)


def run_once(module: Any, arrays: list[Array], outputs: list[int], device: Any) -> list[bytes]:
    """Run the kernel of a loaded module once and return the bytes of its outputs."""
    tensors = [_tensor(array, device) for array in arrays]
    module[SYMBOL](*tensors)
    return [tensors[index].numpy().tobytes() for index in outputs]


def time_kernel(module: Any, arrays: list[Array], device: Any, repeats: int) -> list[float]:
    """Seconds of one call, one figure per repeat.

    Other work on the machine only ever makes a repeat slower. Where it disturbed them, more are
    made, and the fastest ones count; on an idle machine these are all.
    """
    tensors = [_tensor(array, device) for array in arrays]
    once = module.time_evaluator(SYMBOL, device, number=1, repeat=2)(*tensors).results[-1]
    number = max(1, min(100_000, round(MIN_SECONDS / max(once, 1e-9))))
    timer = module.time_evaluator(SYMBOL, device, number=number, repeat=repeats)
    made: list[float] = []
    for _ in range(_ATTEMPTS):
        made = sorted([*made, *(float(second) for second in timer(*tensors).results)])
        if np.median(made[:repeats]) <= _CALM * made[0]:
            break
    return made[:repeats]


class WrongResultError(TuneError):
    """A candidate computes other bytes than it must: it is out, however often it is measured."""


def check(found: list[bytes], expected: list[bytes]) -> None:
    """Compare outputs byte by byte.

    Raises:
        WrongResultError: they differ; it says how far.
    """
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one != other:
            wrong = np.count_nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8))
            raise WrongResultError(
                f"wrong result: {wrong} of {len(one)} bytes of output {number} differ"
            )


def _tensor(array: Array, device: Any) -> Any:
    import tvm

    return tvm.runtime.tensor(array, device)
