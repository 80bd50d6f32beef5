"""A thread of its own for a module of the vm form that wants a certain number of threads.

TVM keeps one pool of threads for each thread that runs kernels, and reads its size,
TVM_NUM_THREADS, when that thread first meets a parallel loop. So a module with a size of its own
runs on a thread of its own, which makes its pool with that size.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "TVM_NUM_THREADS"
_environment = threading.Lock()
_Job = tuple[Callable[[], Any], "queue.SimpleQueue[tuple[bool, Any]]"]


class Crew:
    """A thread whose TVM pool has `threads` threads, itself included; it ends with this object."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start()

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread; returns its result or raises its exception."""
        if os.getpid() != self._process:
            self._start()  # a forked child has only the thread that forked
        answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._jobs.put((work, answer))
        good, result = answer.get()
        if not good:
            raise result
        value: T = result
        return value

    def _start(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        arguments = (self._jobs, self.threads)
        threading.Thread(target=_serve, args=arguments, name="tvm_insta", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)


def _serve(jobs: queue.SimpleQueue[_Job | None], threads: int) -> None:
    ready = False
    while (job := jobs.get()) is not None:
        work, answer = job
        try:
            if ready:
                result: Any = work()
            else:  # the first run that succeeds makes the pool
                with _environment:
                    result = _with_variable(work, str(threads))
                ready = True
        except BaseException as error:  # the caller's to handle
            answer.put((False, error))
        else:
            answer.put((True, result))
        del job, work, answer


def _with_variable(work: Callable[[], T], value: str) -> T:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = value
    try:
        return work()
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
