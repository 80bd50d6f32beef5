"""Run the plain-C form through ctypes."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime import profile
from tvm_insta.runtime.arrays import Array, aligned_empty, output_shape
from tvm_insta.runtime.library import open_library
from tvm_insta.runtime.manifest import Manifest, TensorInfo
from tvm_insta.runtime.manifest_checks import BATCH, image_bytes
from tvm_insta.runtime.trace import TraceEntry, trace_entries

T = TypeVar("T")

_ERROR_BUSY = 6


class _Options(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("flags", ctypes.c_uint32))


class _Event(ctypes.Structure):
    """The header's `<name>_event`."""

    _fields_ = (
        ("image", ctypes.c_int32),
        ("call", ctypes.c_int32),
        ("output", ctypes.c_int32),
        ("symbol", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
    )


_Observer = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Event), ctypes.c_void_p)


class CBackend:
    """The plain-C form in this process.

    Raises:
        ArtefactError: the library is not what the manifest says, or refuses this processor.
        InputError: the number of threads is not possible.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        check: bool = True,
        threads: int | None = None,
    ) -> None:
        self.manifest = manifest
        entry = manifest.files[manifest.library] if check else None
        self._opened = open_library(path, entry, manifest.form, _open)
        self.library: ctypes.CDLL = self._opened.handle
        pointers = [ctypes.c_void_p] * (len(manifest.inputs) + 1)
        self._run = self._function("run", ctypes.c_int, *pointers, ctypes.c_int32)
        self._error = self._function("error", ctypes.c_char_p, ctypes.c_int)
        self._set_observer = self._function("set_observer", None, _Observer, ctypes.c_void_p)
        self._check_interface()
        # The manifest's features were asked for already; the library asks again for its own.
        options = _Options(ctypes.sizeof(_Options), 0 if check else 1)
        init = self._function("init", ctypes.c_int, ctypes.POINTER(_Options))
        self._check(init(ctypes.byref(options)))
        self._threads, self._process = threads, os.getpid()
        if threads is not None:
            self._set_threads(threads)

    def call(self, work: Callable[[], T]) -> T:
        """Call `work` on the thread that runs this module: any."""
        if self._process != os.getpid():
            # The threads of the library did not come with a forked child.
            self._process = os.getpid()
            if self._threads is not None:
                self._set_threads(self._threads)
        return work()

    def run(self, inputs: list[Array], batch: int) -> Array:
        """Run the batch; returns a new array."""
        with self._opened.lock:
            return self._run_locked(inputs, batch)

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], None]:
        """A call that runs the batch again and again, into memory of its own: for benchmarks."""
        outputs = self.manifest.outputs
        output = aligned_empty(output_shape(outputs, batch), outputs[0].dtype)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*inputs, output)]
        arguments = (*pointers, ctypes.c_int32(batch))
        kept = (*inputs, output)  # the pointers hold no memory

        def run(_: object = kept) -> None:
            with self._opened.lock:
                code = self._run(*arguments)
            if code != 0:
                self._check(code)

        return run

    def profile(self) -> Callable[..., Any]:
        """The function that gives the times of the last run's kernels, see `runtime.profile`."""
        return profile.PROTOTYPE(self._address("profile"))

    def trace(self, inputs: list[Array], batch: int) -> list[TraceEntry]:
        """Run the batch and collect every kernel's outputs, stacked along the leading dimension."""
        seen: dict[tuple[int, int], list[bytes]] = {}

        def observe(event: ctypes._Pointer[_Event], _user: int | None) -> None:
            now = event.contents
            written = ctypes.string_at(now.data, now.bytes)
            seen.setdefault((now.call, now.output), []).append(written)

        callback = _Observer(observe)
        with self._opened.lock:
            self._set_observer(callback, None)
            try:
                self._run_locked(inputs, batch)
            finally:
                self._set_observer(_Observer(), None)
        kernels = self.manifest.kernels
        made = {
            (kernel.index, number): self._stacked(info, seen.pop((kernel.index, number), []), batch)
            for kernel in kernels
            for number, info in enumerate(kernel.outputs)
        }
        if seen:
            raise _mismatch(f"kernel {min(seen)[0]} is not in the manifest")
        return trace_entries(kernels, inputs, made)

    def _stacked(self, info: TensorInfo, images: list[bytes], batch: int) -> Array:
        """What a kernel wrote for each image, along the leading dimension."""
        if len(images) != batch or any(len(image) != image_bytes(info) for image in images):
            raise _mismatch(f"what was written to {info.name} is not as long as the manifest says")
        shape = [1 if isinstance(dim, str) else dim for dim in info.shape]
        arrays = [np.frombuffer(image, np.dtype(info.dtype)).reshape(shape) for image in images]
        return np.concatenate(arrays) if shape else np.stack(arrays)

    def _check_interface(self) -> None:
        """Compare the shapes and dtypes of the manifest with those that the library has."""
        manifest = self.manifest
        if len({info.shape[:1] == (BATCH,) for info in manifest.inputs}) != 1:
            raise _mismatch("some inputs have a batch and some have none")
        found = [self._tensor(index) for index in range(len(manifest.inputs))]
        wanted = [_library_tensor(info) for info in manifest.inputs]
        wanted.append(_library_output(manifest.outputs))
        if [*found, self._tensor(None)] != wanted or self._tensor(len(found)) is not None:
            raise _mismatch("it has other inputs or another output than the manifest says")

    def _tensor(self, index: int | None) -> tuple[str, tuple[int, ...]] | None:
        """Dtype and shape of one image of an input, or of the output for None; None: no such."""
        place = "output" if index is None else "input"
        numbers = () if index is None else (index,)
        number = [ctypes.c_int32] * len(numbers)
        sizes = ctypes.POINTER(ctypes.c_int32)
        shape = self._function(f"{place}_shape", sizes, *number, sizes)
        dtype = self._function(f"{place}_dtype", ctypes.c_char_p, *number)
        rank = ctypes.c_int32()
        name, dims = dtype(*numbers), shape(*numbers, ctypes.byref(rank))
        if name is None or not dims:
            return None
        return name.decode("ascii", "replace"), tuple(dims[: rank.value])

    def _run_locked(self, inputs: list[Array], batch: int) -> Array:
        outputs = self.manifest.outputs
        output = aligned_empty(output_shape(outputs, batch), outputs[0].dtype)
        self._check(self._run(*(array.ctypes.data for array in inputs), output.ctypes.data, batch))
        return output

    def _set_threads(self, threads: int) -> None:
        function = self._function("set_threads", ctypes.c_int, ctypes.c_int32)
        with self._opened.lock:
            code = function(threads)
        if code == _ERROR_BUSY:
            self._check(code)
        elif code != 0:
            raise InputError(f"got threads={threads}: {self._error(code).decode()}")

    def _function(
        self, name: str, result: type[ctypes._CData] | None, *arguments: type[ctypes._CData]
    ) -> Callable[..., Any]:
        """The C function; to be called only while this object lives, whose library it is in."""
        return ctypes.CFUNCTYPE(result, *arguments)(self._address(name))

    def _address(self, name: str) -> int:
        """Where the C function is.

        What ctypes makes of `library[name]` refers to itself and to the library: that would stay
        open until Python's garbage collector runs.
        """
        symbol = f"{self.manifest.name}_{name}"
        try:
            return _ctypes.dlsym(self.library._handle, symbol)
        except OSError as error:
            raise ArtefactError(
                f"{self.manifest.library} has no function {symbol}; it is no plain-C model of that "
                "name: compile the model again"
            ) from error

    def _check(self, code: int) -> None:
        if code != 0:
            text = self._error(code).decode()
            raise ArtefactError(f"{self.manifest.library} returned error {code}: {text}")


def _open(path: str) -> ctypes.CDLL:
    """Open a library that is closed, and its threads ended, when nobody refers to it any more."""
    library = ctypes.CDLL(path)
    # At the end of the program the C library closes what is open.
    weakref.finalize(library, _ctypes.dlclose, library._handle).atexit = False
    return library


def _library_tensor(info: TensorInfo) -> tuple[str, tuple[int, ...]]:
    return info.dtype, tuple(1 if isinstance(dim, str) else dim for dim in info.shape)


def _library_output(infos: Sequence[TensorInfo]) -> tuple[str, tuple[int, ...]]:
    """What one image writes: the output, or several behind each other."""
    if len(infos) == 1:
        return _library_tensor(infos[0])
    return infos[0].dtype, tuple(output_shape(infos, 1))


def _mismatch(what: str) -> ArtefactError:
    return ArtefactError(f"library and manifest do not match: {what}; compile the model again")
