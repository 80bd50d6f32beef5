"""Load an artefact and run it: `load(path)(x)`.

Neither torch nor the compiler is imported. The plain-C form needs numpy only, the vm form also
tvm_ffi and libtvm_runtime.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime import amx, cpu, device_tensors, devices, profile
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.arrays import check_inputs, split_outputs
from tvm_insta.runtime.backend import Backend
from tvm_insta.runtime.c_backend import CBackend
from tvm_insta.runtime.cuda_backend import CudaBackend
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.trace import TraceEntry
from tvm_insta.runtime.vm_backend import VmBackend


def load(
    path: str | Path,
    *,
    check: bool = True,
    threads: int | None = None,
    device: str | None = None,
    cuda_graph: bool = False,
) -> Module:
    """Load the artefact at `path`: its folder, its `.so` or its `model.json`.

    Args:
        path: where the compiler wrote it.
        check: compare size and hash of every file with the manifest, and the CPU's features with
            those the artefact needs. Without it a damaged file or a missing feature may end the
            process; architecture, TVM version and the manifest itself are checked in any case.
        threads: how many threads one run may use; the output has the same bits for any number.
            None: the vm form takes what TVM_NUM_THREADS says where the calling thread first runs
            a network, half of the processors without it, and the plain-C form stays as it is: one
            thread, unless another module of the same file asked for more. In the vm form a run on
            more than one thread is handed over to a thread beside the caller's, which takes some
            microseconds; why, says `runtime.vm_threads`.
        device: what runs the kernels: "cpu" of an artefact for a CPU, "cuda" (the first card) or
            "emulated" (see `tvm_insta.cuda_emulator`) of one for CUDA. None: "cpu" or "cuda". The
            artefact of another CPU than this is loaded by `tvm_insta.cpu_emulator`.
        cuda_graph: launch all kernels of a run by one call, as a CUDA graph, of an artefact for
            CUDA: the first run of a batch launches its kernels one by one and captures them, later
            ones of the same batch launch the graph. Up to `cuda_graph.MOST_GRAPHS` batches have a
            graph, each with its own memory on the card. The output has the same bits.

    Raises:
        ArtefactError: one sentence on what is missing, damaged or does not fit this machine.
        InputError: the number of threads is not possible, or the device, or there is no graph.
        EmulatorError: the emulated device cannot be made here.
    """
    if threads is not None and (not isinstance(threads, SupportsIndex) or int(threads) < 1):
        raise InputError(f"got threads={threads!r}, but at least 1 thread is needed, an integer")
    folder, library = locate(Path(path))
    manifest = manifests.read(folder / manifests.FILE_NAME)
    if library is not None and library != manifest.library:
        raise ArtefactError(
            f"{folder / library} is not the library {manifest.library} of the manifest beside it; "
            "give the folder of the artefact"
        )
    where = devices.choose(manifest, device)
    if cuda_graph and where is devices.Device.CPU:
        raise InputError("got cuda_graph=True, but the artefact is for a CPU: leave it away")
    _check_machine(manifest, check_cpu=check)
    if check:
        others = [name for name in manifest.files if name != manifest.library]
        manifests.check_files(folder, manifest, others)  # the library is checked where it is opened
    return Module(
        folder, manifest, check=check, threads=threads, device=where, cuda_graph=cuda_graph
    )


class Module:
    """A loaded network. Calls are serialised: a module may be shared between threads.

    Attributes:
        manifest: what the artefact says of itself.
        folder: where it was loaded from.
        device: what runs its kernels.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        check: bool = True,
        threads: int | None = None,
        device: devices.Device = devices.Device.CPU,
        cuda_graph: bool = False,
        backend: Backend | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.device = device
        library = folder / manifest.library
        self._backend: Backend
        if backend is not None:
            self._backend = backend
        elif manifest.form == "c":
            self._backend = CBackend(library, manifest, check=check, threads=threads)
        elif device is not devices.Device.CPU:
            self._backend = CudaBackend(
                library, manifest, device, check=check, threads=threads, graphs=cuda_graph
            )
        else:
            self._backend = VmBackend(library, manifest, check=check, threads=threads)

    @property
    def form(self) -> str:
        """`vm` or `c`."""
        return self.manifest.form

    def __call__(self, *inputs: object) -> Any:
        """Run a batch; see `run`."""
        return self.run(*inputs)

    def run(self, *inputs: object) -> Any:
        """Run the network on a batch.

        Args:
            inputs: one array per input of the manifest: numpy, or any CPU tensor that speaks
                DLPack; `[batch, ...]` with 1 <= batch <= `manifest.max_batch`, dtype exactly as in
                the manifest. Strided or unaligned memory is copied. Of an artefact for CUDA also
                tensors on the first card, all of them, in C order; they are read where they are.

        Returns:
            The output, `[batch, ...]`, a new numpy array; a tuple of such arrays in the order of
            `manifest.outputs` where the network has several outputs. For tensors on the card, a
            tensor there that speaks DLPack (`torch.from_dlpack`), a `tvm_ffi.Tensor`.

        Raises:
            InputError: what was got, what is allowed, how to mend it.
        """
        if self._on_device(inputs) and len(self.manifest.outputs) > 1:
            raise InputError(
                f"the network has {len(self.manifest.outputs)} outputs, which lie behind each "
                "other in one tensor on the card: call run_joined, or pass numpy arrays"
            )
        result = self.run_joined(*inputs)
        return split_outputs(result, self.manifest.outputs)

    def run_joined(self, *inputs: object) -> Any:
        """Run the network on a batch; several outputs stay behind each other.

        Returns:
            The output as `run` gives it, or `[batch, elements of all outputs]`.

        Raises:
            InputError: as `run`.
        """
        if isinstance(self._backend, CudaBackend) and self._on_device(inputs):
            backend = self._backend
            tensors, batch = device_tensors.check_tensors(
                inputs, self.manifest.inputs, self.manifest.max_batch, backend.ffi
            )
            return backend.call(lambda: backend.run_on_device(tensors, batch))
        arrays, batch = check_inputs(inputs, self.manifest.inputs, self.manifest.max_batch)
        return self._backend.call(lambda: self._backend.run(arrays, batch))

    def _on_device(self, inputs: Sequence[object]) -> bool:
        return isinstance(self._backend, CudaBackend) and device_tensors.on_device(inputs)

    def trace(self, *inputs: object) -> list[TraceEntry]:
        """Run the network as `run` does and return what every kernel wrote, in order.

        The vm form also gives all that a kernel read; the plain-C form gives what it read but for
        constants, and stacks the images of a batch along the leading dimension.
        """
        arrays, batch = check_inputs(inputs, self.manifest.inputs, self.manifest.max_batch)
        return self._backend.call(lambda: self._backend.trace(arrays, batch))

    def benchmark(
        self, *inputs: object, warmup: int = 10, repeat: int = 100
    ) -> npt.NDArray[np.float64]:
        """Time single runs; returns `[repeat]` seconds, in the order measured.

        The inputs are checked and aligned once, outside the clock; there the plain-C form gets the
        memory of its output, too.
        """
        _check_repeats(warmup, repeat)
        arrays, batch = check_inputs(inputs, self.manifest.inputs, self.manifest.max_batch)
        seconds = np.empty(repeat, np.float64)

        def measure() -> None:
            run = self._backend.prepared(arrays, batch)
            for _ in range(warmup):
                run()
            for index in range(repeat):
                start = time.perf_counter()
                run()
                seconds[index] = time.perf_counter() - start

        self._backend.call(measure)
        return seconds

    def kernel_times(
        self, *inputs: object, warmup: int = 10, repeat: int = 100
    ) -> profile.KernelTimes:
        """Time single runs and each kernel in them, as `benchmark` does.

        Raises:
            InputError: the artefact was compiled without ``--profile``, or as `benchmark`.
        """
        profile.check_counts(self.manifest)
        _check_repeats(warmup, repeat)
        arrays, batch = check_inputs(inputs, self.manifest.inputs, self.manifest.max_batch)
        kernels = self.manifest.kernels
        found = profile.KernelTimes(np.empty((repeat, len(kernels))), np.empty(repeat))

        def measure() -> None:
            run, counted = self._backend.prepared(arrays, batch), self._backend.profile()
            for _ in range(warmup):
                run()
            for index in range(repeat):
                counted(None)  # the vm form counts on from run to run
                start = time.perf_counter()
                run()
                found.whole[index] = time.perf_counter() - start
                found.kernels[index] = profile.read(counted, kernels)

        self._backend.call(measure)
        return found

    def __repr__(self) -> str:
        shapes = ", ".join(f"{list(info.shape)} {info.dtype}" for info in self.manifest.inputs)
        return f"<tvm_insta module {self.manifest.name}: {self.form} form, {shapes}, {self.folder}>"


def _check_repeats(warmup: int, repeat: int) -> None:
    if warmup < 0 or repeat < 1:
        raise InputError(f"got warmup {warmup} and repeat {repeat}; at least 0 and 1 are needed")


def locate(path: Path) -> tuple[Path, str | None]:
    """The artefact's folder, and the library's name if `path` named it.

    Raises:
        ArtefactError: there is no such folder or file, or it is another manifest.
    """
    if path.is_dir():
        return path, None
    if not path.exists():
        raise ArtefactError(f"{path} does not exist; give the folder that the compiler wrote")
    if path.suffix == ".json":
        if path.name != manifests.FILE_NAME:
            raise ArtefactError(
                f"{path} is not named {manifests.FILE_NAME}; give the folder of the artefact"
            )
        return path.parent, None
    return path.parent, path.name


def _check_machine(manifest: Manifest, *, check_cpu: bool) -> None:
    here = cpu.machine()
    if manifest.machine != here:
        raise ArtefactError(
            f"the artefact is for {manifest.machine}, this machine is {here}; compile the model "
            "with --target native here, or run it there"
        )
    lacking = cpu.missing(manifest.needs) if check_cpu else ()
    if lacking:
        raise ArtefactError(
            f"the artefact needs the CPU features {', '.join(lacking)}, which this processor "
            "lacks; compile the model with --target native on this machine"
        )
    amx.ask_permission(manifest.needs)
