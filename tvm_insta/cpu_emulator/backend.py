"""A plain-C artefact under an emulator, with all that `runtime.Module` asks of a loaded one."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from tvm_insta.cpu_emulator.program import link
from tvm_insta.errors import EmulatorError
from tvm_insta.runtime.arrays import Array, output_shape
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.trace import TraceEntry, trace_entries
from tvm_insta.target.toolchain import Linker

T = TypeVar("T")


class EmulatedBackend:
    """One program per artefact, one process of it per run.

    Args:
        folder: of the artefact.
        manifest: of the artefact.
        linker: for its target.
        command: the emulator and its arguments.
        threads: how many threads one run uses.

    Raises:
        ToolchainError: the program cannot be linked.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        linker: Linker,
        command: Sequence[str],
        *,
        threads: int | None = None,
    ) -> None:
        self.manifest = manifest
        self._command, self._threads = tuple(command), threads or 1
        work = tempfile.TemporaryDirectory(prefix="tvm_insta-", ignore_cleanup_errors=True)
        self._work = Path(work.name)
        weakref.finalize(self, work.cleanup)
        self._program = link(folder, manifest, linker, self._work)
        # Emulation is slow: what was traced last is not run again.
        self._last: tuple[bytes, Array, list[TraceEntry]] | None = None

    def call(self, work: Callable[[], T]) -> T:
        """Call `work` on the thread that runs this module: any."""
        return work()

    def run(self, inputs: list[Array], batch: int) -> Array:
        """Run the batch; returns a new array."""
        if batch == 1:
            output: Array = self._traced(inputs, batch)[1].copy()
            return output
        return self._execute(inputs, batch, None)

    def trace(self, inputs: list[Array], batch: int) -> list[TraceEntry]:
        """Run the batch and collect every kernel's outputs, stacked along the leading dimension."""
        return self._traced(inputs, batch)[2]

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], None]:
        """Refused: an emulator's times are none.

        Raises:
            EmulatorError: always.
        """
        del inputs, batch
        self._no_times()

    def profile(self) -> Callable[..., Any]:
        """Refused as `prepared` is."""
        self._no_times()

    @staticmethod
    def _no_times() -> NoReturn:
        raise EmulatorError(
            "an emulator says nothing about time: measure on the board (bench there, or tune "
            "--runner rpc)"
        )

    def _traced(self, inputs: list[Array], batch: int) -> tuple[bytes, Array, list[TraceEntry]]:
        key = b"".join(array.tobytes() for array in inputs)
        if self._last is None or self._last[0] != key:
            file = self._work / "trace.raw"
            output = self._execute(inputs, batch, file)
            written = self._read(file, batch)
            file.unlink()  # some tens of megabytes
            kernels = self.manifest.kernels
            self._last = (key, output, trace_entries(kernels, inputs, written))
        return self._last

    def _execute(self, inputs: list[Array], batch: int, trace: Path | None) -> Array:
        outputs = self.manifest.outputs
        source, result = self._work / "in.raw", self._work / "out.raw"
        shape = output_shape(outputs, batch)
        with source.open("wb") as file:
            for array in inputs:
                file.write(array.tobytes())
        command: list[str | Path] = [
            *self._command,
            self._program,
            source,
            result,
            str(batch),
            str(self._threads),
        ]
        if trace is not None:
            command.append(trace)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise EmulatorError(f"{self.manifest.library} {self._ended(done)}")
        output: Array = np.fromfile(result, outputs[0].dtype).reshape(shape)
        return output

    def _ended(self, done: subprocess.CompletedProcess[str]) -> str:
        emulator = " ".join([Path(self._command[0]).name, *self._command[1:]])
        said = done.stderr.strip().splitlines()
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            return f"was ended by {name} under {emulator}" + (
                ": that CPU lacks an instruction" if name == "SIGILL" else ""
            )
        return f"failed under {emulator}: {said[-1] if said else f'code {done.returncode}'}"

    def _read(self, file: Path, batch: int) -> dict[tuple[int, int], Array]:
        """The kernels' outputs by call and number, from what runner.c wrote."""
        data = np.fromfile(file, np.uint8)
        images: dict[tuple[int, int], list[Array]] = {}
        at = 0
        while at < len(data):
            image, call, output, size = data[at : at + 16].view(np.int32).tolist()
            info = self.manifest.kernels[call].outputs[output]
            shape = [1 if isinstance(dim, str) else dim for dim in info.shape]
            raw = data[at + 16 : at + 16 + size]
            found = images.setdefault((call, output), [])
            assert image == len(found), "images run one after the other"
            found.append(np.frombuffer(raw.tobytes(), np.dtype(info.dtype)).reshape(shape))
            at += 16 + size
        assert all(len(each) == batch for each in images.values())
        return {key: np.concatenate(each) for key, each in images.items()}
