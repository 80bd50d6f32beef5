"""AMX kernels, run by an emulator where the processor has no AMX.

On a processor with AMX the same tests run on its own tiles, without counts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "1")

from tvm_insta.runtime import amx, cpu
from tvm_insta.target import parse

SOURCE = Path(__file__).parent / "emulate.c"
AMX = {"amx-bf16", "amx-int8", "amx-tile"}
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers with a seed of the test's own; pytest shows the printed seed on failure."""
    seed = int(os.environ.get("TVM_INSTA_TEST_SEED", zlib.crc32(request.node.nodeid.encode())))
    print(f"TVM_INSTA_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """The emulator; its name is what makes it act when it is preloaded."""
    if platform.machine() != "x86_64" or "avx512bw" not in cpu.cpu_features():
        pytest.skip("the kernels need AVX-512 BW beside AMX")
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the emulator with")
    path = tmp_path_factory.mktemp("emulator") / "libamx_emulate.so"
    subprocess.run(["gcc", *FLAGS, SOURCE, "-o", path, "-ldl", "-lm"], check=True)
    return path


class Tiles:
    """How many tile instructions ran; nothing is counted on a processor with AMX."""

    def __init__(self, functions: ctypes.CDLL | None) -> None:
        self.functions = functions

    def count(self, what: str) -> int | None:
        """Number of "products", "full_products" (with 16 rows) or "configurations" so far."""
        if self.functions is None:
            return None
        return int(getattr(self.functions, f"amx_emulate_{what}")())


@pytest.fixture
def tiles(library, monkeypatch):
    """Tile instructions run in this process; the features of the processor name AMX."""
    features = cpu.cpu_features()
    if features >= AMX:
        amx.ask_permission(AMX)
        yield Tiles(None)
        return
    functions = ctypes.CDLL(str(library))
    functions.amx_emulate_install()
    functions.amx_emulate_permit(1)
    monkeypatch.setattr(cpu, "cpu_features", lambda: features | AMX)
    monkeypatch.setattr(amx, "_request", lambda: 0)
    yield Tiles(functions)
    functions.amx_emulate_permit(0)
    functions.amx_emulate_remove()


@pytest.fixture(scope="session")
def target():
    """This processor, and AMX."""
    return parse("llvm -mcpu=native -mattr=+amx-bf16,+amx-int8,+amx-tile")
