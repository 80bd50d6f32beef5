"""Read the times that the kernels of an artefact count, see ``compile --profile``."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime.manifest import Kernel, Manifest


class _Time(ctypes.Structure):
    """The header's `<name>_kernel_time`."""

    _fields_ = (("symbol", ctypes.c_char_p), ("nanoseconds", ctypes.c_uint64))


PROTOTYPE = ctypes.CFUNCTYPE(ctypes.POINTER(_Time), ctypes.POINTER(ctypes.c_int32))
"""Of the C function `<name>_profile`."""


@dataclass(frozen=True)
class KernelTimes:
    """Seconds of single runs.

    Attributes:
        kernels: ``[repeat, kernel calls]``, in the order of `Manifest.kernels`.
        whole: ``[repeat]``, of the whole run, measured around it.
    """

    kernels: npt.NDArray[np.float64]
    whole: npt.NDArray[np.float64]


def check_counts(manifest: Manifest) -> None:
    """Refuse an artefact whose kernels do not count their time.

    Raises:
        InputError: it was compiled without the counters.
    """
    if manifest.options.get("profile") is not True:
        raise InputError(
            f"got an artefact of {manifest.name} whose kernels count no time: compile the model "
            "with --profile"
        )


def read(function: Callable[..., Any], kernels: Sequence[Kernel]) -> npt.NDArray[np.float64]:
    """The seconds of each kernel call in the last run.

    Raises:
        ArtefactError: other kernels ran than the manifest says.
    """
    count = ctypes.c_int32()
    times = function(ctypes.byref(count))
    entries = [times[at] for at in range(count.value)]
    if [entry.symbol.decode() for entry in entries] != [kernel.symbol for kernel in kernels]:
        raise ArtefactError(
            f"the library timed {count.value} kernels, and they are not the {len(kernels)} of the "
            "manifest; library and manifest do not match: compile the model again"
        )
    return np.array([1e-9 * entry.nanoseconds for entry in entries])
