"""Compare a library of the vm form with its manifest: `main` is called without its kernels.

The library names neither shapes nor dtypes of its inputs, but its byte code checks them before the
first kernel. An instrument of TVM's virtual machine skips every kernel and sees what each would be
given. So nothing is computed, and nothing is read or written of the inputs: they are addresses that
the system has not given memory to.
"""

from __future__ import annotations

import math
import mmap
from types import ModuleType
from typing import Any

import numpy as np

from tvm_insta.errors import ArtefactError, one_line
from tvm_insta.runtime.arrays import Array, output_shape
from tvm_insta.runtime.entries import Manifest, TensorInfo
from tvm_insta.runtime.manifest_checks import BATCH, image_bytes

REFUSALS = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)
"""What TVM raises for tensors that a network does not take."""

_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux
_RUN, _SKIP = 0, 1  # VMInstrumentReturnKind
_NO_KERNEL = ("vm.builtin.", "shape_func")
"""How the names of functions begin that find shapes and memory."""


def is_kernel(name: str) -> bool:
    """Whether the virtual machine calls a kernel by this name."""
    return not name.startswith(_NO_KERNEL)


def tensors(arguments: tuple[Any, ...]) -> list[Any]:
    """The tensors that a kernel is given, those that it writes last; the rest are sizes."""
    return [argument for argument in arguments if hasattr(argument, "__dlpack__")]


def check(ffi: ModuleType, vm: Any, manifest: Manifest) -> None:
    """Refuse a library that has other inputs, outputs or kernels than the manifest says.

    Args:
        ffi: tvm_ffi.
        vm: the virtual machine, on the CPU.
        manifest: what is to be compared with it.

    Raises:
        ArtefactError: what differs.
    """
    calls: list[tuple[str, list[tuple[tuple[int, ...], str]]]] = []

    def instrument(_func: object, name: str, _before: bool, _result: object, *args: Any) -> int:
        if not is_kernel(name):
            return _RUN
        found = [(tuple(arg.shape), str(arg.dtype)) for arg in tensors(args)]
        calls.append((name, found))
        return _SKIP

    try:
        inputs = [ffi.from_dlpack(_without_memory(info)) for info in manifest.inputs]
        vm["set_instrument"](ffi.convert(instrument))
        try:
            result = vm["main"](*inputs)
        finally:
            vm["set_instrument"](None)
        output = tuple(result.shape), str(result.dtype)
    except REFUSALS as error:
        raise refused(manifest, error) from error
    _check_kernels(manifest, calls)
    check_output(manifest, *output, batch=1)


def _without_memory(info: TensorInfo) -> Array:
    """An array for one image, of pages that nobody has touched.

    Raises:
        ValueError: the process has no such range of addresses.
    """
    dims = [1 if isinstance(dim, str) else dim for dim in info.shape]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    try:
        pages = mmap.mmap(-1, max(image_bytes(info), 1), flags=flags)
    except OSError as error:
        raise ValueError(f"{error.strerror} for {dims} {info.dtype}") from error
    return np.frombuffer(pages, info.dtype, math.prod(dims)).reshape(dims)


def _check_kernels(
    manifest: Manifest, calls: list[tuple[str, list[tuple[tuple[int, ...], str]]]]
) -> None:
    wanted = [kernel.symbol for kernel in manifest.kernels]
    if [name for name, _ in calls] != wanted:
        raise mismatch(
            f"the library calls {len(calls)} kernels, others than the {len(wanted)} of it"
        )
    for kernel, (_, found) in zip(manifest.kernels, calls, strict=True):
        written = found[len(kernel.args) :]
        if len(written) != len(kernel.outputs) or not all(
            dtype == info.dtype and fits(dims, shape(info, 1))
            for (dims, dtype), info in zip(written, kernel.outputs, strict=True)
        ):
            raise mismatch(f"kernel {kernel.symbol} has other tensors than it says")


def check_output(manifest: Manifest, dims: tuple[int, ...], dtype: str, batch: int) -> None:
    """Refuse an output that is not what the manifest says.

    Raises:
        ArtefactError: naming both.
    """
    wanted = tuple(output_shape(manifest.outputs, batch)), manifest.outputs[0].dtype
    if (dims, dtype) != wanted:
        raise mismatch(
            f"the output is {list(dims)} {dtype}, and {list(wanted[0])} {wanted[1]} there"
        )


def refused(manifest: Manifest, error: BaseException) -> ArtefactError:
    """TVM does not take the inputs, which are what the manifest asks for."""
    return mismatch(f"{manifest.library} refuses such inputs: {one_line(error)}")


def mismatch(what: str) -> ArtefactError:
    """The sentence around what differs."""
    return ArtefactError(
        f"the manifest describes another network than its library ({what}); compile the model again"
    )


def shape(info: TensorInfo, batch: int) -> tuple[int | None, ...]:
    """The shape for a batch; None where the manifest has a product of the batch."""
    known = {BATCH: batch}
    return tuple(known.get(dim) if isinstance(dim, str) else dim for dim in info.shape)


def fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape is the one wanted; None stands for any size."""
    return len(found) == len(wanted) and all(
        b is None or a == b for a, b in zip(found, wanted, strict=True)
    )
