"""Threads that run modules of the vm form, each with a pool of TVM's for its parallel loops.

TVM keeps one pool for each thread that runs kernels, and makes it when that thread first meets a
parallel loop, as large as TVM_NUM_THREADS or a limit of the thread says. So a module with a number
of its own runs on a thread of its own, which has this limit.

A thread that has such a pool must not fork: the child has a copy of the pool without its threads,
waits for them for ever, and damages its heap when it ends. So no thread of the caller's gets one:
what asks for no size runs on a thread beside the caller's, unless TVM_NUM_THREADS says 1, which
needs no pool. The child finds that it has another process number, and starts threads of its own.

A thread that is not used any more waits for the next module of its number, and is never ended:
TVM's workers look for work 300,000 times before they see that they should end, which takes minutes
where the processor is busy, so that ending some and starting others, time after time, would pile
them up. There are never more threads of a number than were in use at one time.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tvm_insta.runtime import tvm_library

T = TypeVar("T")

# In the order in which TVM looks for its number.
_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")

_Job = tuple[Callable[[], Any], "queue.SimpleQueue[tuple[bool, Any]]"]
_Number = int | tuple[str | None, ...]
"""Of threads; or what the environment says of it."""


@dataclass(eq=False)
class _Thread:
    """A thread that waits for jobs."""

    number: _Number
    process: int = field(default_factory=os.getpid)
    jobs: queue.SimpleQueue[_Job] = field(default_factory=queue.SimpleQueue)

    def start(self) -> _Thread:
        arguments = (self.jobs, self.number)
        threading.Thread(target=_serve, args=arguments, name="tvm_insta", daemon=True).start()
        return self


_unused: dict[_Number, list[_Thread]] = {}


class VmThread:
    """A thread whose TVM pool has `threads` threads, itself included; this object's for its life.

    None: as many as the environment says.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._take()

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread; returns its result or raises its exception."""
        if self._thread.process != os.getpid():
            self._give_back.detach()
            self._take()  # a forked child has only the thread that forked
        answer: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._thread.jobs.put((work, answer))
        good, result = answer.get()
        if not good:
            raise result
        value: T = result
        return value

    def _take(self) -> None:
        number = _said() if self.threads is None else self.threads
        self._thread = _take(number)
        self._give_back = weakref.finalize(self, _give_back, self._thread)
        self._give_back.atexit = False


_of_thread = threading.local()


def call(work: Callable[[], T]) -> T:
    """Run `work` with as many threads as the environment said when this thread first came here."""
    thread: VmThread | None = getattr(_of_thread, "thread", None)
    if thread is None and not hasattr(_of_thread, "thread"):
        thread = _of_thread.thread = None if _one() else VmThread()
    return work() if thread is None else thread.call(work)


def _said() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in _VARIABLES)


def _one() -> bool:
    """Whether the environment says that one thread is enough."""
    return next((text for text in _said() if text is not None), "").strip() == "1"


def _take(number: _Number) -> _Thread:
    unused = _unused.setdefault(number, [])
    while unused:
        try:
            found = unused.pop()
        except IndexError:  # another thread was faster
            break
        if found.process == os.getpid():
            return found
    return _Thread(number).start()


def _give_back(thread: _Thread) -> None:
    """Called wherever the last reference goes, so it waits for no lock."""
    if thread.process == os.getpid():
        _unused.setdefault(thread.number, []).append(thread)


def _serve(jobs: queue.SimpleQueue[_Job], number: _Number) -> None:
    limit = number if isinstance(number, int) else None
    while True:
        work, answer = jobs.get()
        try:
            if limit is not None:
                tvm_library.limit_threads(limit)
                limit = None  # it holds for the life of the thread
            result: Any = work()
        except BaseException as error:  # the caller's to handle
            answer.put((False, error))
        else:
            answer.put((True, result))
            del result  # it may be the last reference to a module
        del work, answer
