"""Run the vm form through tvm_ffi and libtvm_runtime; the compiler is never imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import profile, tvm_library, vm_interface, vm_threads
from tvm_insta.runtime.arrays import Array, aligned_empty, to_aligned
from tvm_insta.runtime.library import open_library
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.trace import TraceEntry

T = TypeVar("T")

_CPU, _POOLED_MEMORY = 1, 2  # kDLCPU, memory::AllocatorType::kPooled


class VmBackend:
    """The vm form in this process.

    Raises:
        ArtefactError: TVM is missing or of another version, or the library is not what the
            manifest says.
    """

    def __init__(
        self, path: Path, manifest: Manifest, *, check: bool = True, threads: int | None = None
    ) -> None:
        self.manifest = manifest
        self.thread = None if threads is None else vm_threads.VmThread(threads)
        check_tvm(manifest)
        self.ffi = tvm_library.load()
        # By its own name: tvm_ffi.load_module keeps every library until the program ends, and
        # takes the kind of a file from its ending.
        load = self.ffi.get_global_func("ffi.Module.load_from_file.so")
        entry = manifest.files[manifest.library] if check else None
        self._opened = open_library(path, entry, manifest.form, lambda name: load(name, "so"))
        module = self._opened.handle
        try:
            self.vm = module["vm_load_executable"]()
            self.vm["vm_initialization"](*self._devices())
            self.main = self.vm["main"]
            inputs = self.vm["get_function_arity"]("main")
        except (AttributeError, RuntimeError) as error:
            raise ArtefactError(
                f"{manifest.library} holds no Relax VM module ({error}); compile the model again"
            ) from error
        if inputs != len(manifest.inputs):
            raise vm_interface.mismatch(f"the network has {inputs} inputs")
        self._check_interface()

    def _check_interface(self) -> None:
        with self._opened.lock:
            vm_interface.check(self.ffi, self.vm, self.manifest)

    def _devices(self) -> tuple[int, ...]:
        """Kind, number and allocator of each device, as the VM takes them."""
        return _CPU, 0, _POOLED_MEMORY

    def _main(self, inputs: list[Array]) -> Array:
        """What the network makes of the inputs; memory of the VM's."""
        return self.to_numpy(self.main(*map(self.ffi.from_dlpack, inputs)))

    def to_numpy(self, tensor: Any) -> Array:
        """A tensor of the VM as an array, in the same memory where that is this process's."""
        return np.from_dlpack(tensor)

    def call(self, work: Callable[[], T]) -> T:
        """Call `work` on the thread that runs this module, see `runtime.vm_threads`."""
        return vm_threads.call(work) if self.thread is None else self.thread.call(work)

    def run(self, inputs: list[Array], batch: int) -> Array:
        """Run the batch; returns a new array. To be called through `call`."""
        with self._opened.lock:
            passes = self._passes(inputs, batch)
            if len(passes) == 1:
                return self._run_locked(inputs, batch)
            rows = [self._run_locked(images, len(images[0])) for images in passes]
            output = aligned_empty((batch, *rows[0].shape[1:]), rows[0].dtype)
            return np.concatenate(rows, out=output)

    def _passes(self, inputs: list[Array], batch: int) -> list[list[Array]]:
        """The inputs of each pass, where they are if kernels can read them there."""
        at_once = self.manifest.images_at_once or batch
        if batch <= at_once:
            return [inputs]
        return [
            [to_aligned(array[at : at + at_once]) for array in inputs]
            for at in range(0, batch, at_once)
        ]

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], None]:
        """A call that runs the batch again and again: for benchmarks. To be made through `call`."""
        passes = [[*map(self.ffi.from_dlpack, images)] for images in self._passes(inputs, batch)]

        def run() -> None:
            try:
                with self._opened.lock:
                    for arguments in passes:
                        self.main(*arguments)
            except vm_interface.REFUSALS as error:
                raise vm_interface.refused(self.manifest, error) from error

        return run

    def profile(self) -> Callable[..., Any]:
        """The function that gives the times of the last run's kernels, see `runtime.profile`."""
        try:
            name = f"{self.manifest.name}_profile"
            address = self._opened.handle.get_function(name, query_imports=True)()
        except AttributeError as error:
            raise ArtefactError(
                f"{self.manifest.library} has no counters, though its manifest says so; compile "
                "the model again"
            ) from error
        return profile.PROTOTYPE(address)

    def trace(self, inputs: list[Array], batch: int) -> list[TraceEntry]:
        """Run the batch and collect what every kernel read and wrote, see `run`."""
        entries: list[TraceEntry] = []
        kernels = self.manifest.kernels
        read: tuple[Array, ...] = ()

        def instrument(
            _func: object, name: str, before: bool, _result: object, *args: object
        ) -> int:
            nonlocal read
            at = len(entries)
            if at == len(kernels) or not vm_interface.is_kernel(name):
                return 0
            tensors = vm_interface.tensors(args)
            split = len(tensors) - len(kernels[at].outputs)
            if before:  # the kernel may write over what it reads
                read = self._copies(tensors[:split])
            else:
                entries.append(TraceEntry(at, name, read, self._copies(tensors[split:])))
            return 0

        with self._opened.lock:
            self.vm["set_instrument"](self.ffi.convert(instrument))
            try:
                self._run_locked(inputs, batch)
            finally:
                self.vm["set_instrument"](None)
        for entry, kernel in zip(entries, kernels, strict=False):
            wanted = [vm_interface.shape(info, batch) for info in kernel.outputs]
            found = [array.shape for array in entry.outputs]
            good = entry.symbol == kernel.symbol and len(entry.inputs) == len(kernel.args)
            if not good or not all(map(vm_interface.fits, found, wanted)):
                raise vm_interface.mismatch(
                    f"kernel {kernel.symbol} has other tensors than it says"
                )
        if len(entries) != len(kernels):
            raise vm_interface.mismatch(f"{len(entries)} of {len(kernels)} kernels were called")
        return entries

    def _copies(self, tensors: list[Any]) -> tuple[Array, ...]:
        return tuple(np.array(self.to_numpy(tensor)) for tensor in tensors)

    def _run_locked(self, inputs: list[Array], batch: int) -> Array:
        try:
            result = self._main(inputs)
        except vm_interface.REFUSALS as error:
            raise vm_interface.refused(self.manifest, error) from error
        return self._checked(result, batch)

    def _checked(self, result: Array, batch: int) -> Array:
        """The output, if it is what the manifest says, in memory that is not TVM's."""
        vm_interface.check_output(self.manifest, result.shape, str(result.dtype), batch)
        # A copy: TVM's memory is given back here, under the lock, and not where the caller drops
        # the array, which may be while another thread forks.
        output = aligned_empty(result.shape, result.dtype)
        output[...] = result
        return output


def check_tvm(manifest: Manifest) -> None:
    """Refuse a vm artefact of another TVM release: its byte code and ABI have no promise.

    Raises:
        ArtefactError: if TVM is missing or of another version than the artefact's.
    """
    for package, key in (("apache-tvm", "tvm"), ("apache-tvm-ffi", "tvm_ffi")):
        wanted = manifest.versions.get(key)
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ArtefactError(
                f"the vm form needs {package} {wanted}, which is not installed; install it, or "
                "compile the model with --runtime c"
            ) from None
        if found != wanted:
            raise ArtefactError(
                f"the artefact was compiled with {package} {wanted}, installed is {found}; install "
                "that version, or compile the model again"
            )
