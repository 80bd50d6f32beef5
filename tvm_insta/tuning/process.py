"""The parent's end of a worker process, with time limits."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tvm_insta.errors import TuneError

START_SECONDS = 120.0
"""A worker imports TVM first, which takes seconds, and longer on a busy machine."""


class WorkerFailure(TuneError):
    """A request was not answered: the worker died or took too long. The next one gets a new one."""


class Worker:
    """One worker process at a time, started when it is first needed.

    Args:
        cores: the CPU cores it may run on; None for all.
        threads: worker threads of TVM.
    """

    def __init__(self, cores: Sequence[int] | None = None, threads: int = 1) -> None:
        self._cores = cores
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._task: Mapping[str, Any] | None = None
        self._errors = tempfile.TemporaryFile()
        self._buffer = b""

    def request(
        self, task: Mapping[str, Any], request: Mapping[str, Any], timeout: float
    ) -> dict[str, Any]:
        """Answer of the worker to a request about a task.

        Raises:
            WorkerFailure: no answer; the worker is gone.
        """
        fresh = self._process is None
        if fresh:
            self._start()
        if self._task != task:
            answer = self._exchange({"op": "task", **task}, START_SECONDS)
            if "error" in answer:
                raise WorkerFailure(f"the worker cannot read its task: {answer['error']}")
            self._task = dict(task)
        return self._exchange(request, timeout)

    def close(self) -> None:
        """End the process."""
        self._kill()
        self._errors.close()

    def _start(self) -> None:
        self._buffer, self._task = b"", None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tvm_insta.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "TVM_NUM_THREADS": str(self._threads)},
        )
        if self._cores is not None and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # a core that was taken away: run anywhere
                os.sched_setaffinity(self._process.pid, self._cores)

    def _exchange(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + timeout
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    self._kill()
                    raise WorkerFailure(f"no answer within {timeout:.0f} s")
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise BrokenPipeError
                self._buffer += chunk
        except OSError as error:
            raise WorkerFailure(self._died()) from error
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> str:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.returncode
        self._kill()
        if code is None:
            return "the worker stopped answering"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        self._errors.seek(0)
        self._errors.truncate()
        return f"the worker died ({how}){': ' + lines[-1][:200] if lines else ''}"

    def _kill(self) -> None:
        process, self._process, self._task = self._process, None, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
