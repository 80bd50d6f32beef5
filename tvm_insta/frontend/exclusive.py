"""One thread at a time, for work that changes what a process shares.

Tracing gives Python's `len` and PyTorch's symbols other methods for a while, executes the user's
module and puts its state back, and TVM keeps compilers for devices in a global table. So builds
wait for each other, whatever their module; loaded artefacts run in other threads meanwhile.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
_LOCK = threading.RLock()


def exclusive(function: _Function) -> _Function:
    """The function, which waits until no other thread is in an exclusive one."""

    @functools.wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with _LOCK:
            return function(*args, **kwargs)

    return alone  # type: ignore[return-value]
