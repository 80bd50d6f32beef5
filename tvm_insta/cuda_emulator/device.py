"""The emulated device in this process: stand-ins for CUDA's libraries, and what they execute.

`install()` loads a libcuda.so.1 and a libcudart.so.13 of our own, under which TVM's CUDA run time
works as it does with a card. They come up without a device; `start()` adds one.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path
from typing import Any

from tvm_insta.cuda_emulator import cuda_c
from tvm_insta.cuda_emulator.build import DRIVER, RUNTIME, build_driver, build_kernels
from tvm_insta.cuda_emulator.counts import LaunchCounts, read_counts
from tvm_insta.cuda_emulator.fatbin import ptx_at
from tvm_insta.cuda_emulator.options import SHARED_LIMITS, Options, architecture
from tvm_insta.cuda_emulator.ptx.translate import translate
from tvm_insta.errors import EmulatorError, InstaError

_TRANSLATOR = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_int
)
_guard = threading.Lock()


class Device:
    """The emulated device of this process; `start` makes or changes it.

    Attributes:
        driver: the driver's stand-in, for its `cu...` and `emu_...` functions.
    """

    def __init__(self, driver: ctypes.CDLL) -> None:
        self.driver = driver
        driver.emu_error.restype = ctypes.c_char_p
        driver.emu_take_names.restype = ctypes.c_char_p
        driver.emu_launches.restype = ctypes.c_uint64
        driver.emu_graph_launches.restype = ctypes.c_uint64
        driver.emu_host_copies.restype = ctypes.c_uint64
        driver.emu_refuse.argtypes = [ctypes.c_int, ctypes.c_char_p]
        driver.emu_start.argtypes = [ctypes.c_int, ctypes.c_uint32, _TRANSLATOR]
        driver.emu_take_counts.restype = ctypes.c_char_p
        self._counts = False
        # Kept as long as the library that calls it.
        self._translator = _TRANSLATOR(self._translate)

    def configure(self, options: Options) -> None:
        """Execute what comes with these options."""
        self.driver.emu_configure(
            options.order.value,
            options.seed,
            int(options.late_copies),
            int(options.races),
            int(options.counts),
        )
        self._counts = options.counts

    @property
    def launches(self) -> int:
        """Kernels that the program launched so far, one by one: not those of graphs."""
        return int(self.driver.emu_launches())

    @property
    def graph_launches(self) -> int:
        """Graphs launched so far."""
        return int(self.driver.emu_graph_launches())

    @property
    def host_copies(self) -> int:
        """Copies between the host and the device so far."""
        return int(self.driver.emu_host_copies())

    def take_names(self) -> list[str]:
        """Names of the kernels executed since the last call, in order, graphs' included."""
        text: bytes = self.driver.emu_take_names()
        return text.decode().split()

    def take_counts(self) -> list[LaunchCounts]:
        """What each launch since the last call did, of those with `Options.counts`, in order."""
        text: bytes = self.driver.emu_take_counts()
        return read_counts(text.decode())

    @property
    def error(self) -> str:
        """What the last call of CUDA that failed says, or an empty string."""
        text: bytes = self.driver.emu_error()
        return text.decode()

    def clear_error(self) -> None:
        """Forget the last failure."""
        self.driver.emu_clear_error()

    def _start(self, arch: int) -> None:
        self.driver.emu_start(arch, SHARED_LIMITS[arch], self._translator)

    def _translate(self, image: int, path: Any, room: int) -> int:
        try:
            text = ptx_at(image)
            source = cuda_c.translate(text) if cuda_c.is_cuda_c(text) else translate(text)
            library = str(build_kernels(source, counts=self._counts)).encode()
            if len(library) >= room:
                raise EmulatorError(f"the path {library.decode()} is too long")
            ctypes.memmove(path, library + b"\0", len(library) + 1)
        except (InstaError, OSError, UnicodeDecodeError) as error:
            self.driver.emu_refuse(0, str(error).encode())
            return 1
        return 0


@functools.cache
def install() -> Device:
    """Load the stand-ins into this process, once; there is no device yet.

    Raises:
        EmulatorError: a CUDA driver or run time is loaded already, or the stand-ins cannot be
            compiled here.
    """
    taken = sorted({name for name in (DRIVER, RUNTIME) if _is_loaded(name)})
    if taken:
        raise EmulatorError(
            f"{' and '.join(taken)} is loaded in this process already, beside which the "
            "emulated device cannot be: use it in a process of its own, before the card"
        )
    driver, runtime = build_driver()
    handle = ctypes.CDLL(str(driver), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)
    return Device(handle)


def start(arch: str = "sm_90", options: Options | None = None) -> Device:
    """Have an emulated device of the architecture in this process.

    Args:
        arch: such as "sm_90"; kernels for a newer one are refused, as a card refuses them.
        options: how kernels are executed.

    Raises:
        EmulatorError: as `install`; or the architecture is not known.
    """
    number = architecture(arch)
    with _guard:
        device = install()
        device._start(number)
        device.configure(options or Options())
    return device


def is_installed() -> bool:
    """Whether `install` was called in this process, and went well."""
    return install.cache_info().currsize > 0


def _is_loaded(name: str) -> bool:
    """Whether a library of that name is in this process, from wherever."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.rstrip().endswith(f"/{name}") for line in maps.splitlines())
