"""What must hold between the entries of a manifest: every one is checked before any is used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tvm_insta.errors import ArtefactError
from tvm_insta.runtime.preprocess import Preprocessing

if TYPE_CHECKING:
    from tvm_insta.runtime.entries import Binarisation, Kernel, Manifest, TensorInfo

FORMS = ("vm", "c")
KINDS = ("binary", "float")
COMPUTE_DTYPES = ("fp32", "bf16", "int8")
STATES = ("tuned", "similar", "default", "stale")
BATCH = "batch"
MOST = 2**31 - 1
"""Of a count or a size of one dimension; the C interface has int32_t."""
MOST_BYTES = 2**40
"""Of one tensor: more than any machine this runs on has, and far below what wraps round."""
ITEM_BYTES = {
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": bits // 8 for bits in (16, 32, 64)},
    "bool": 1,
    "bfloat16": 2,
}
"""Bytes of an element of each dtype that a manifest may name."""

MOST_LETTERS = 128
"""Of the name of an artefact."""
NAME_RULE = f"a letter, then letters, digits and _, at most {MOST_LETTERS} in all"

_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{MOST_LETTERS - 1}}}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SYMBOLIC = re.compile(rf"(?=.*{BATCH})[A-Za-z0-9_ ()+*/%,.-]{{1,200}}")
_ARGUMENT = re.compile(r"(input|constant|value):(0|[1-9][0-9]{0,8})")
_PLACE = re.compile(r"(argument|output):(0|[1-9][0-9]{0,8})")
_HEX = re.compile(r"([0-9a-f]{8})*")


def check(manifest: Manifest) -> None:
    """Refuse a manifest whose entries no compiler wrote.

    Raises:
        ArtefactError: naming the first entry that is wrong, and what is allowed.
    """
    _check_files(manifest)
    _check_target(manifest)
    if not 1 <= manifest.max_batch <= MOST:
        raise ArtefactError(
            f"the manifest's max_batch is {manifest.max_batch}; it must be at least 1 and at most "
            f"{MOST}"
        )
    at_once = manifest.images_at_once
    if at_once is not None and not 1 <= at_once <= manifest.max_batch:
        raise _wrong("images_at_once", at_once, f"1 to max_batch, {manifest.max_batch}")
    if not manifest.inputs or not manifest.outputs:
        raise ArtefactError(
            f"the manifest has {len(manifest.inputs)} inputs and {len(manifest.outputs)} outputs; "
            "an artefact has at least one of each"
        )
    for info in (*manifest.inputs, *manifest.outputs):
        _check_interface(info)
    first = manifest.inputs[0].shape
    for output in manifest.outputs:
        if not output.shape or output.shape[:1] != first[:1]:
            raise _wrong("output", list(output.shape), "one row for each image of the first input")
    if len({output.dtype for output in manifest.outputs}) > 1:
        raise _wrong("outputs", [output.dtype for output in manifest.outputs], "one dtype")
    _check_kernels(manifest)
    for pack in manifest.binarisations:
        _check_pack(pack, manifest.kernels)
    _check_counts(manifest)
    if manifest.preprocessing is not None:
        Preprocessing.from_dict(manifest.preprocessing)


def is_name(name: str) -> bool:
    """Whether a name may be that of an artefact: it begins the names of its C functions."""
    return _NAME.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether a name may be that of an artefact's file: no path, and not hidden."""
    return _FILE.fullmatch(name) is not None


def _wrong(what: str, got: object, allowed: str) -> ArtefactError:
    return ArtefactError(f"the manifest's {what} is {got!r}; allowed is {allowed}")


def _check_files(manifest: Manifest) -> None:
    if manifest.form not in FORMS:
        raise ArtefactError(f"the manifest's form is {manifest.form!r}; allowed are vm and c")
    if not is_name(manifest.name):
        raise _wrong("name", manifest.name, NAME_RULE)
    if manifest.library not in manifest.files:
        raise ArtefactError(
            f"the manifest lists no file {manifest.library}, its own library; compile the model "
            "again"
        )
    for name, entry in manifest.files.items():
        if not is_file_name(name):
            raise ArtefactError(
                f"the manifest lists the file {name!r}; only plain file names are allowed"
            )
        if not 0 <= entry.bytes <= MOST_BYTES:
            raise _wrong(f"size of {name}", entry.bytes, f"0 to {MOST_BYTES} bytes")
        if not _SHA256.fullmatch(entry.sha256):
            raise _wrong(f"SHA-256 of {name}", entry.sha256, "64 hexadecimal digits")


def _check_target(manifest: Manifest) -> None:
    try:
        target = json.loads(manifest.target)
    except (ValueError, RecursionError):
        target = None
    if not isinstance(target, dict) or not isinstance(target.get("kind"), str):
        raise _wrong("target", manifest.target, "a JSON object with the text kind")
    missing = sorted({"tvm", "tvm_ffi", "tvm_insta"} - set(manifest.versions))
    if missing:
        raise ArtefactError(f"the manifest's versions lack {missing[0]}; compile the model again")


def _check_interface(info: TensorInfo) -> None:
    """An input or an output: a numpy array, of which at most the first dimension is the batch."""
    _check_tensor(info)
    texts = [dim for dim in info.shape if isinstance(dim, str)]
    if (
        info.dtype == "bfloat16"
        or texts not in ([], [BATCH])
        or texts != list(info.shape[:1])[: len(texts)]
    ):
        raise _wrong(
            f"tensor {info.name}",
            [info.dtype, *info.shape],
            f"a dtype of numpy and {BATCH!r} as the first dimension only",
        )


def _check_tensor(info: TensorInfo) -> None:
    where = f"tensor {info.name}"
    if info.dtype not in ITEM_BYTES:
        raise _wrong(f"dtype of {where}", info.dtype, f"one of {', '.join(sorted(ITEM_BYTES))}")
    if len(info.shape) > 64:  # numpy has no more
        raise _wrong(f"rank of {where}", len(info.shape), "at most 64")
    _check_dims(info.shape, where)
    if image_bytes(info) > MOST_BYTES:
        raise _wrong(f"shape of {where}", list(info.shape), f"a tensor of {MOST_BYTES} bytes")


def image_bytes(info: TensorInfo) -> int:
    """Bytes of the tensor for one image; a symbolic dimension counts as 1."""
    return ITEM_BYTES[info.dtype] * math.prod(dim for dim in info.shape if isinstance(dim, int))


def _check_dims(dims: Iterable[int | str], where: str) -> None:
    for dim in dims:
        if isinstance(dim, str) and not _SYMBOLIC.fullmatch(dim):
            raise _wrong(f"dimension of {where}", dim, f"a number, {BATCH!r} or a multiple of it")
        if isinstance(dim, int) and not 0 <= dim <= MOST:
            raise _wrong(f"dimension of {where}", dim, f"0 to {MOST}")


def _check_kernels(manifest: Manifest) -> None:
    values = 0
    for info in manifest.constants:
        _check_tensor(info)
    for index, kernel in enumerate(manifest.kernels):
        if kernel.index != index or not kernel.symbol or not kernel.outputs:
            raise _wrong(
                f"kernel {index}", kernel.symbol, f"one of index {index} with a symbol and outputs"
            )
        bounds = {
            "input": len(manifest.inputs),
            "constant": len(manifest.constants),
            "value": values,
        }
        for argument in kernel.args:
            found = _ARGUMENT.fullmatch(argument)
            if not found or int(found[2]) >= bounds[found[1]]:
                raise _wrong(
                    f"argument of kernel {kernel.symbol}",
                    argument,
                    "input:i, constant:i or value:i of what was computed before",
                )
        for info in kernel.outputs:
            _check_tensor(info)
        if kernel.schedule is not None and kernel.schedule.state not in STATES:
            raise _wrong(
                f"schedule state of kernel {kernel.symbol}",
                kernel.schedule.state,
                f"one of {', '.join(STATES)}",
            )
        values += len(kernel.outputs)


def _check_pack(pack: Binarisation, kernels: Sequence[Kernel]) -> None:
    if not 0 <= pack.kernel < len(kernels):
        raise _wrong("kernel of a binarisation", pack.kernel, f"0 to {len(kernels) - 1}")
    kernel = kernels[pack.kernel]
    counts = {"argument": len(kernel.args), "output": len(kernel.outputs)}
    for place in (pack.source, pack.threshold):
        found = _PLACE.fullmatch(place)
        constant = place is pack.threshold and pack.thresholds is not None
        if not found or not (constant or int(found[2]) < counts[found[1]]):
            raise _wrong("place of a tensor to pack", place, "argument:i or output:i of the kernel")
    if not 0 <= pack.output < len(kernel.outputs):
        raise _wrong("output of a binarisation", pack.output, f"0 to {len(kernel.outputs) - 1}")
    if pack.compare not in ("ge", "gt", "le", "lt"):
        raise _wrong("comparison of a binarisation", pack.compare, "ge, gt, le or lt")
    if len(pack.pad) != 4:
        raise _wrong("padding of a binarisation", list(pack.pad), "top, left, bottom, right")
    sizes = (*pack.pad, *pack.threshold_shape)
    positive = (pack.channels, pack.bits, pack.groups)
    if not _in_range(sizes, 0) or not _in_range(positive, 1) or pack.bits > 32:
        raise _wrong("binarisation", [*positive, *sizes], f"1 to {MOST}, 0 to {MOST} in shapes")
    if not 0 <= pack.nan < 2**pack.bits:
        raise _wrong("code of NaN of a binarisation", pack.nan, f"0 to {2**pack.bits - 1}")
    if pack.site is not None and sorted(pack.site.axes) != list(range(len(pack.site.axes))):
        raise _wrong("order of axes of a binarisation", list(pack.site.axes), "a permutation")
    if pack.site is not None and pack.site.every:
        every = pack.site.every
        if len(every) != len(pack.site.axes) or not _in_range(every, 1):
            raise _wrong("distance of elements", list(every), f"1 to {MOST} for each of the axes")
    if pack.thresholds is not None and (
        not _HEX.fullmatch(pack.thresholds)
        or len(pack.thresholds) != 8 * math.prod(pack.threshold_shape)
    ):
        raise _wrong(
            "thresholds of a binarisation",
            f"{pack.thresholds[:16]}...",
            "8 hexadecimal digits for each element of threshold_shape",
        )


def _check_counts(manifest: Manifest) -> None:
    counts = [manifest.working_set or 0]
    if manifest.memory is not None:
        used = manifest.memory
        counts += [used.weights, used.arena, used.alive, used.scratch, used.thread]
    for layer in manifest.layers:
        counts += [layer.macs, layer.bits or 0, layer.weight_bits, layer.planes, *layer.weight]
        _check_dims(layer.shape, f"layer {layer.name}")
        if layer.kind not in KINDS:
            raise _wrong(f"kind of layer {layer.name}", layer.kind, " or ".join(KINDS))
        if layer.compute_dtype and layer.compute_dtype not in COMPUTE_DTYPES:
            what = f"compute_dtype of layer {layer.name}"
            raise _wrong(what, layer.compute_dtype, f"one of {', '.join(COMPUTE_DTYPES)}")
        if not all(0 <= call < len(manifest.kernels) for call in layer.calls):
            calls = f"calls of layer {layer.name}"
            raise _wrong(calls, list(layer.calls), f"0 to {len(manifest.kernels) - 1}")
    if not _in_range(counts, 0, 2**63 - 1):
        raise _wrong("count of bytes or operations", min(counts), "0 or more")


def _in_range(numbers: Iterable[int], low: int, high: int = MOST) -> bool:
    return all(low <= number <= high for number in numbers)
