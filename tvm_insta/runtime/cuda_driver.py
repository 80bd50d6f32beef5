"""CUDA's own libraries on a machine with a card: loaded, and the card looked at."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from tvm_insta import cuda_emulator
from tvm_insta.errors import ArtefactError

_DRIVER, _RUNTIME = "libcuda.so.1", "libcudart.so.13"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
_HOW = (
    "run it on a machine with an NVIDIA card, or load it with device='emulated' (--device emulated)"
)


def load(arch: str) -> None:
    """Load the driver and CUDA's run time, for kernels that were compiled for `arch`.

    Args:
        arch: such as "sm_90".

    Raises:
        ArtefactError: there is no driver or no card, or the card is older than `arch`.
    """
    if cuda_emulator.is_installed():
        raise ArtefactError(
            "the artefact is for CUDA, and this process has the emulated device's libraries in the "
            f"place of a driver's, as compiling leaves them where there is none: {_HOW}"
        )
    try:
        driver = ctypes.CDLL(_DRIVER, ctypes.RTLD_GLOBAL)
        initialise, count_of = driver.cuInit, driver.cuDeviceGetCount
    except (OSError, AttributeError):
        raise ArtefactError(
            f"the artefact is for CUDA, and this machine has no CUDA driver: {_HOW}"
        ) from None
    count = ctypes.c_int()
    if initialise(0) or count_of(ctypes.byref(count)) or not count.value:
        raise ArtefactError(f"the artefact is for CUDA, and the driver finds no card: {_HOW}")
    check_card(arch, _capability(driver))
    _load_runtime()


def name(arch: str) -> str:
    """What the first card is called, once `load` has found that it runs kernels for `arch`.

    Raises:
        ArtefactError: as `load`.
    """
    load(arch)
    text = ctypes.create_string_buffer(256)
    if ctypes.CDLL(_DRIVER).cuDeviceGetName(text, len(text), 0):
        raise ArtefactError("the CUDA driver does not say what card there is: restart it")
    return text.value.decode(errors="replace")


def architecture() -> str:
    """The first card's, such as "sm_90", once `load` has found it.

    Raises:
        ArtefactError: the driver does not say.
    """
    return f"sm_{_capability(ctypes.CDLL(_DRIVER))}"


def check_card(arch: str, capability: int) -> None:
    """Refuse a card that is older than what the kernels were compiled for.

    Args:
        arch: such as "sm_90".
        capability: 10 times the major plus the minor compute capability.

    Raises:
        ArtefactError: the card cannot run them.
    """
    wanted = int(arch.removeprefix("sm_").rstrip("af"))
    if capability < wanted:
        raise ArtefactError(
            f"the artefact is for {arch} and later, this card is an sm_{capability}: compile the "
            f'model with --target "cuda -arch=sm_{capability}"'
        )


def _capability(driver: ctypes.CDLL) -> int:
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
            raise ArtefactError("the CUDA driver does not say what card there is: restart it")
        parts.append(value.value)
    return 10 * parts[0] + parts[1]


def _load_runtime() -> None:
    """CUDA's run time, where the dynamic loader does not find it: NVIDIA's wheels, the toolkit."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    folders = [root / part for root in roots for part in ("cu13/lib", "cuda_runtime/lib")]
    for name in (
        _RUNTIME,
        *(str(folder / _RUNTIME) for folder in folders),
        f"/usr/local/cuda/lib64/{_RUNTIME}",
    ):
        try:
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
