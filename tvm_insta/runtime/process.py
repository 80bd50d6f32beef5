"""What a fork does to locks and threads, and how this package stands it.

A forked child has one thread, the one that forked, and a copy of all memory: a lock that another
thread held is held for ever, and a pool of threads is a pool without threads. So a fork waits until
no thread is within a run or opens a library: then everything is at rest and can be copied. This
holds for forks that Python makes (`os.fork`, `multiprocessing`). Threads: `runtime.vm_threads`.
"""

from __future__ import annotations

import os
import threading
import weakref

_locks: list[weakref.ref[Lock]] = []  # in order of creation; read and changed in single steps
_held: list[Lock] = []
_forking = threading.RLock()  # one thread forks at a time


class Lock:
    """A lock that no child inherits locked; the thread that holds it may take it again.

    A thread that holds one and takes another must have been given them in this order: a fork takes
    all of them in the order in which they were made.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.append(weakref.ref(self, _locks.remove))

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _before_fork() -> None:
    _forking.acquire()
    while True:
        now = [each for reference in list(_locks) if (each := reference()) is not None]
        new = [each for each in now if not any(each is other for other in _held)]
        if not new:
            return
        for each in new:
            each.__enter__()
            _held.append(each)


def _after_fork() -> None:
    while _held:
        _held.pop().__exit__()
    _forking.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
