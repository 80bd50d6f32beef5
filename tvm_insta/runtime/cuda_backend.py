"""Run the vm form of a CUDA artefact: on the first card, or on the emulated device.

TVM's two run-time libraries and CUDA's run time are needed, and no compiler. Arrays are copied to
the device and the output back; tensors on the device are read there, and the output stays there.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tvm_insta import cuda_emulator
from tvm_insta.errors import ArtefactError, one_line
from tvm_insta.runtime import cuda_driver, tvm_library, vm_interface
from tvm_insta.runtime.arrays import Array
from tvm_insta.runtime.cuda_graph import CudaGraph, CudaGraphs
from tvm_insta.runtime.devices import Device, architecture
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.tvm_library import load_library
from tvm_insta.runtime.vm_backend import VmBackend, check_tvm

T = TypeVar("T")

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
        graphs: bool = False,
    ) -> None:
        check_tvm(manifest)
        arch = architecture(manifest) or ""
        self.emulated: cuda_emulator.Device | None = None
        if device is Device.EMULATED:
            self.emulated = cuda_emulator.start(arch)
        else:
            cuda_driver.load(arch)
        self._graphs = CudaGraphs() if graphs else None
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
        self._from_bytes = self.ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._from_tensor = self.ffi.get_global_func("runtime.TVMTensorCopyFromTo")
        self._alloc = self.ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._wait = self.ffi.get_global_func("runtime.Device_StreamSync")
        self._card = self.ffi.device("cuda", 0)

    def _devices(self) -> tuple[int, ...]:
        # Without a pool, the emulated device sees where each piece of memory ends.
        memory = _POOLED if self.emulated is None else _NAIVE
        return _CUDA, 0, memory, _CPU, 0, memory

    def _check_interface(self) -> None:
        """Each run checks: the inputs would be copied to the device, and have no memory to copy."""

    def run(self, inputs: list[Array], batch: int) -> Array:
        """See `VmBackend`."""
        if self._graphs is None:
            return super().run(inputs, batch)
        with self._opened.lock:
            try:
                return self._checked(self._fetched(self._by_graph(self._graphs, inputs)), batch)
            except vm_interface.REFUSALS as error:
                raise vm_interface.refused(self.manifest, error) from error

    def run_on_device(self, tensors: list[Any], batch: int) -> Any:
        """Run a batch that lies on the device.

        Args:
            tensors: tvm_ffi's, of the first card, as `device_tensors.check_tensors` gives them.
            batch: theirs.

        Returns:
            The output on the device, complete and in memory of its own; several outputs are behind
            each other.
        """
        with self._opened.lock:
            try:
                if self._graphs is None:
                    result = self._kernels(lambda: self.main(*tensors))
                else:
                    result = self._copied(self._by_graph(self._graphs, tensors))
            except vm_interface.REFUSALS as error:
                raise vm_interface.refused(self.manifest, error) from error
            dims = tuple(map(int, result.shape))
            vm_interface.check_output(self.manifest, dims, str(result.dtype), batch)
            self._kernels(lambda: self._wait(self._card, 0))
            return result

    def _main(self, inputs: list[Array]) -> Array:
        self._set(inputs)
        return self._run()

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], None]:
        """As in `VmBackend`; the inputs are on the device, the output is copied to the host."""
        try:
            with self._opened.lock:
                if self._graphs is None:
                    self._set(inputs)
                    once: Callable[[], object] = self._run
                else:
                    self._by_graph(self._graphs, inputs)  # where it is the first run, it captures
                    once = functools.partial(self._replayed, self._graphs.of(inputs))
        except vm_interface.REFUSALS as error:
            raise vm_interface.refused(self.manifest, error) from error

        def run() -> None:
            with self._opened.lock:
                once()

        return run

    def _replayed(self, graph: CudaGraph | None) -> Array:
        """Launch a graph whose inputs are written; the output on the host."""
        assert graph is not None
        self._kernels(graph.launch)
        return self._fetched(graph.output)

    def _fetched(self, tensor: Any) -> Array:
        """A tensor on the host; a kernel that failed before says so here."""
        return self._kernels(lambda: self.to_numpy(tensor))

    def _set(self, inputs: list[Array]) -> None:
        self.vm["set_input"]("main", *map(self.ffi.from_dlpack, inputs))

    def _run(self) -> Array:
        def work() -> Array:
            self.vm["invoke_stateful"]("main")
            return self.to_numpy(self.vm["get_output"]("main"))

        return self._kernels(work)

    def _by_graph(self, graphs: CudaGraphs, inputs: list[Any]) -> Any:
        """The output on the device; the graph's own memory, but for the first call of a batch."""
        graph = graphs.of(inputs)
        if graph is not None:
            for target, source in zip(graph.inputs, inputs, strict=True):
                self._write(target, source)
            self._kernels(graph.launch)
            return graph.output
        own = [self._alloc(self.ffi.Shape(v.shape), _dtype(v), self._card, None) for v in inputs]
        for target, source in zip(own, inputs, strict=True):
            self._write(target, source)
        # This loads every kernel, which cannot be done while a stream captures, and is the answer.
        result = self._kernels(lambda: self.main(*own))
        graphs.add(self.ffi, self.vm, self.main, own)
        return result

    def _kernels(self, work: Callable[[], T]) -> T:
        """What launches kernels: a failure is said as the device says it."""
        try:
            return work()
        except RuntimeError as error:
            said = one_line(error)
            if self.emulated is not None:
                said = f"the emulated device says: {self.emulated.error or said}"
                self.emulated.clear_error()
            raise ArtefactError(f"a kernel of {self.manifest.library} failed: {said}") from error

    def _write(self, target: Any, source: Any) -> None:
        """Copy an array, or a tensor on the device, to a tensor on the device."""
        if isinstance(source, np.ndarray):
            self._from_bytes(target, ctypes.c_void_p(source.ctypes.data), source.nbytes)
        else:
            self._from_tensor(source, target)

    def _copied(self, tensor: Any) -> Any:
        copy = self._alloc(self.ffi.Shape(tensor.shape), str(tensor.dtype), self._card, None)
        self._from_tensor(tensor, copy)
        return copy

    def to_numpy(self, tensor: Any) -> Array:
        """A copy of a tensor, wherever it is."""
        array = np.empty(tuple(tensor.shape), str(tensor.dtype))
        self._copy(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return array


def _dtype(value: Any) -> str:
    return str(value.dtype)
