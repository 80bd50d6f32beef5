"""TVM's run-time library in this process, and how many threads one of ours may use of it."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from tvm_insta.errors import ArtefactError

# tvm::runtime::threading::SetMaxConcurrency(int). TVM 0.27 exports it, and registers no function
# that calls it alone; the loader takes an artefact with the very version it was compiled with only.
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"


def load_library(name: str, mode: int = ctypes.RTLD_GLOBAL) -> ctypes.CDLL:
    """Load a library of apache-tvm, its symbols visible to what is loaded later.

    Raises:
        ArtefactError: it is not where apache-tvm puts it.
        OSError: the dynamic loader refuses it.
    """
    spec = importlib.util.find_spec("tvm")
    for folder in list(spec.submodule_search_locations or ()) if spec is not None else []:
        found = Path(folder) / "lib" / name
        if found.is_file():
            return ctypes.CDLL(str(found), mode)
    raise ArtefactError(f"{name} is not where apache-tvm puts it; reinstall apache-tvm")


@cache
def library() -> ctypes.CDLL:
    """TVM's run-time library. `import tvm` would load the whole compiler, 250 MB.

    Raises:
        ArtefactError: as `load_library`.
    """
    loaded = "tvm" in sys.modules
    return load_library("libtvm_runtime.so", ctypes.DEFAULT_MODE if loaded else ctypes.RTLD_GLOBAL)


def load() -> ModuleType:
    """Make the library known to the process; returns the module tvm_ffi.

    Raises:
        ArtefactError: as `library`.
    """
    new = "tvm_ffi" not in sys.modules
    import tvm_ffi

    if new:
        # It imports PyTorch where there is one, whose import leaves a traceback in a cycle: with
        # it all that is on the stack now, such as the artefact that is being loaded.
        gc.collect()
    library()
    module: ModuleType = tvm_ffi
    return module


def limit_threads(number: int) -> None:
    """Let kernels that the calling thread runs use `number` threads, whatever the environment says.

    TVM keeps the number for each thread. It asks for it at every parallel loop, so an environment
    variable that is set for the first loop alone would not hold for the next one.
    """
    library()[_SET_MAX_CONCURRENCY](ctypes.c_int(number))
