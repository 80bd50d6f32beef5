"""TVM's run-time library in this process, and how many threads one of ours may use of it."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from tvm_insta.errors import ArtefactError

# tvm::runtime::threading::SetMaxConcurrency(int). TVM 0.27 exports it, and registers no function
# that calls it alone; the loader takes an artefact with the very version it was compiled with only.
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"


@cache
def library() -> ctypes.CDLL:
    """The library, loaded for all that need its symbols.

    Raises:
        ArtefactError: it is not where apache-tvm puts it.
    """
    # `import tvm` would load the whole compiler, 250 MB; its run-time library is enough.
    spec = importlib.util.find_spec("tvm")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        found = Path(folder) / "lib" / "libtvm_runtime.so"
        if found.is_file():
            mode = ctypes.DEFAULT_MODE if "tvm" in sys.modules else ctypes.RTLD_GLOBAL
            return ctypes.CDLL(str(found), mode)
    raise ArtefactError("libtvm_runtime.so is not where apache-tvm puts it; reinstall apache-tvm")


def load() -> ModuleType:
    """Make the library known to the process; returns the module tvm_ffi.

    Raises:
        ArtefactError: as `library`.
    """
    import tvm_ffi

    library()
    module: ModuleType = tvm_ffi
    return module


def limit_threads(number: int) -> None:
    """Let kernels that the calling thread runs use `number` threads, whatever the environment says.

    TVM keeps the number for each thread. It asks for it at every parallel loop, so an environment
    variable that is set for the first loop alone would not hold for the next one.
    """
    library()[_SET_MAX_CONCURRENCY](ctypes.c_int(number))
