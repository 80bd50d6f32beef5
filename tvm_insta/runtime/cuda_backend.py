"""Run the vm form of a CUDA artefact: on the first card, or on the emulated device.

TVM's two run-time libraries and CUDA's run time are needed, and no compiler. Inputs are copied to
the device and the output back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tvm_insta import cuda_emulator
from tvm_insta.errors import ArtefactError, one_line
from tvm_insta.runtime import cuda_driver, tvm_library, vm_interface
from tvm_insta.runtime.arrays import Array
from tvm_insta.runtime.devices import Device, architecture
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.tvm_library import load_library
from tvm_insta.runtime.vm_backend import VmBackend, check_tvm

_CPU, _CUDA = 1, 2  # kDLCPU, kDLCUDA
_NAIVE, _POOLED = 1, 2  # memory::AllocatorType
_LIBRARY = "libtvm_runtime_cuda.so"


class CudaBackend(VmBackend):
    """The vm form, its kernels on a card or on the emulated device.

    Raises:
        ArtefactError: as `VmBackend`; there is no driver or no card, or the card is older than
            what the artefact was compiled for.
        EmulatorError: the emulated device cannot be made here.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        device: Device,
        *,
        check: bool = True,
        threads: int | None = None,
    ) -> None:
        check_tvm(manifest)
        arch = architecture(manifest) or ""
        self.emulated: cuda_emulator.Device | None = None
        if device is Device.EMULATED:
            self.emulated = cuda_emulator.start(arch)
        else:
            cuda_driver.load(arch)
        tvm_library.load()
        try:
            load_library(_LIBRARY)
        except OSError as error:
            raise ArtefactError(
                f"TVM's CUDA library cannot be loaded ({one_line(error)}): install CUDA's run time "
                "of the major version that apache-tvm was built with (pip install "
                "nvidia-cuda-runtime)"
            ) from error
        super().__init__(path, manifest, check=check, threads=threads)
        self._copy = self.ffi.get_global_func("runtime.TVMTensorCopyToBytes")

    def _devices(self) -> tuple[int, ...]:
        # Without a pool, the emulated device sees where each piece of memory ends.
        memory = _POOLED if self.emulated is None else _NAIVE
        return _CUDA, 0, memory, _CPU, 0, memory

    def _check_interface(self) -> None:
        """Each run checks: the inputs would be copied to the device, and have no memory to copy."""

    def _main(self, inputs: list[Array]) -> Array:
        self._set(inputs)
        return self._run()

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], None]:
        """As in `VmBackend`; the inputs are on the device, the output is copied to the host."""
        try:
            with self._opened.lock:
                self._set(inputs)
        except vm_interface.REFUSALS as error:
            raise vm_interface.refused(self.manifest, error) from error

        def run() -> None:
            with self._opened.lock:
                self._run()

        return run

    def _set(self, inputs: list[Array]) -> None:
        self.vm["set_input"]("main", *map(self.ffi.from_dlpack, inputs))

    def _run(self) -> Array:
        try:
            self.vm["invoke_stateful"]("main")
            return self.to_numpy(self.vm["get_output"]("main"))
        except RuntimeError as error:
            said = one_line(error)
            if self.emulated is not None:
                said = f"the emulated device says: {self.emulated.error or said}"
                self.emulated.clear_error()
            raise ArtefactError(f"a kernel of {self.manifest.library} failed: {said}") from error

    def to_numpy(self, tensor: Any) -> Array:
        """A copy of a tensor, wherever it is."""
        array = np.empty(tuple(tensor.shape), str(tensor.dtype))
        self._copy(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return array
