"""Run the plain-C form through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime.arrays import Array, aligned_empty, output_shape
from tvm_insta.runtime.library import open_library
from tvm_insta.runtime.manifest import Manifest
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
    """The plain-C form in this process."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        check_cpu: bool = True,
        threads: int | None = None,
    ) -> None:
        self.manifest = manifest
        sha256 = manifest.files[manifest.library].sha256
        self.library, self.lock = open_library(path, sha256, ctypes.CDLL)
        self._run = self._function("run", ctypes.c_int)
        self._error = self._function("error", ctypes.c_char_p)
        self._set_observer = self._function("set_observer", None)
        self._set_observer.argtypes = [_Observer, ctypes.c_void_p]
        pointers = [ctypes.c_void_p] * (len(manifest.inputs) + 1)
        self._run.argtypes = [*pointers, ctypes.c_int32]
        # The manifest's features were asked for already; the library asks again for its own.
        options = _Options(ctypes.sizeof(_Options), 0 if check_cpu else 1)
        self._check(self._function("init", ctypes.c_int)(ctypes.byref(options)))
        if threads is not None:
            self._set_threads(threads)

    def call(self, work: Callable[[], T]) -> T:
        """Call `work` on the thread that runs this module: any."""
        return work()

    def run(self, inputs: list[Array], batch: int) -> Array:
        """Run the batch; returns a new array."""
        with self.lock:
            return self._run_locked(inputs, batch)

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], None]:
        """A call that runs the batch again and again, into memory of its own: for benchmarks."""
        outputs = self.manifest.outputs
        output = aligned_empty(output_shape(outputs, batch), outputs[0].dtype)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*inputs, output)]
        arguments = (*pointers, ctypes.c_int32(batch))
        kept = (*inputs, output)  # the pointers hold no memory

        def run(_: object = kept) -> None:
            with self.lock:
                code = self._run(*arguments)
            if code != 0:
                self._check(code)

        return run

    def trace(self, inputs: list[Array], batch: int) -> list[TraceEntry]:
        """Run the batch and collect every kernel's outputs, stacked along the leading dimension."""
        parts: dict[tuple[int, int], list[Array]] = {}
        kernels = self.manifest.kernels

        def observe(event: ctypes._Pointer[_Event], _user: int | None) -> None:
            seen = event.contents
            info = kernels[seen.call].outputs[seen.output]
            raw = ctypes.string_at(seen.data, seen.bytes)
            shape = [1 if isinstance(dim, str) else dim for dim in info.shape]
            array = np.frombuffer(raw, np.dtype(info.dtype)).reshape(shape)
            parts.setdefault((seen.call, seen.output), []).append(array)

        callback = _Observer(observe)
        with self.lock:
            self._set_observer(callback, None)
            try:
                self._run_locked(inputs, batch)
            finally:
                self._set_observer(_Observer(), None)
        missing = [
            k.symbol
            for k in kernels
            for n in range(len(k.outputs))
            if len(parts.get((k.index, n), ())) != batch
        ]
        if missing:
            raise ArtefactError(
                f"kernel {missing[0]} did not report its output; library and manifest do not "
                "match: compile the model again"
            )
        made = {key: np.concatenate(list_) for key, list_ in parts.items()}
        return trace_entries(kernels, inputs, made)

    def _run_locked(self, inputs: list[Array], batch: int) -> Array:
        outputs = self.manifest.outputs
        output = aligned_empty(output_shape(outputs, batch), outputs[0].dtype)
        self._check(self._run(*(array.ctypes.data for array in inputs), output.ctypes.data, batch))
        return output

    def _set_threads(self, threads: int) -> None:
        function = self._function("set_threads", ctypes.c_int)
        function.argtypes = [ctypes.c_int32]
        with self.lock:
            code = function(threads)
        if code == _ERROR_BUSY:
            self._check(code)
        elif code != 0:
            raise InputError(f"got threads={threads}: {self._error(code).decode()}")

    def _function(
        self, name: str, result: type[ctypes._SimpleCData[Any]] | None
    ) -> ctypes._NamedFuncPointer:
        symbol = f"{self.manifest.name}_{name}"
        try:
            function: ctypes._NamedFuncPointer = getattr(self.library, symbol)
        except AttributeError as error:
            raise ArtefactError(
                f"{self.manifest.library} has no function {symbol}; it is no plain-C model of that "
                "name: compile the model again"
            ) from error
        function.restype = result
        return function

    def _check(self, code: int) -> None:
        if code != 0:
            text = self._error(code).decode()
            raise ArtefactError(f"{self.manifest.library} returned error {code}: {text}")
