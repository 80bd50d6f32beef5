"""The permission to use AMX tiles.

Linux saves 8 KiB of tiles for each thread that uses them, and grants that only to a process that
asks (since 5.16). The permission holds for all threads, and is inherited. A tile instruction
without it ends the process with SIGILL.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from tvm_insta.errors import ArtefactError

TILES = "amx-tile"
"""The feature in LLVM's names that needs a permission."""

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # x86-64: arch_prctl, ARCH_REQ_XCOMP_PERM


def ask_permission(needs: Iterable[str]) -> None:
    """Ask for what code with these needs (LLVM's feature names) may not use unasked.

    Raises:
        ArtefactError: the operating system refuses.
    """
    if TILES not in needs:
        return
    code = _request()
    if code:
        raise ArtefactError(
            f"the artefact uses AMX tiles, which the operating system refuses this process "
            f"({os.strerror(code)}): run it on Linux 5.16 or later where nothing filters "
            "arch_prctl, or compile the model for a target without them, such as "
            "'llvm -mcpu=native -mattr=-amx-tile'"
        )


def _request() -> int:
    """Ask; returns 0, or the error number."""
    library = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_long(number) for number in (_ARCH_PRCTL, _REQUEST, _TILE_DATA))
    return ctypes.get_errno() if library.syscall(*arguments) else 0
