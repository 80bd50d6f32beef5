"""CUDA C or PTX on the emulated device, without TVM: what the tests of instructions run."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tvm_insta import cuda_emulator
from tvm_insta.cuda_emulator import EmulatorError, Options, Order

ARCH = "sm_90"


def require_compiler():
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++", "clang++")):
        pytest.skip("no C++ compiler is installed: the emulated device cannot be compiled")


def require_nvcc():
    require_compiler()
    if find_nvcc() is None:
        pytest.skip("nvcc is not installed: there is no PTX to execute")


def find_nvcc():
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@functools.cache
def ptx_of(source, arch=ARCH):
    """What nvcc's front end makes of CUDA C."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cu"
        file.write_text(source, encoding="utf-8")
        virtual = arch.replace("sm_", "compute_")
        command = [find_nvcc(), "-ptx", "-fmad=false", f"-arch={virtual}", str(file)]
        command += ["-o", f"{file}.ptx"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Path(f"{file}.ptx").read_text(encoding="utf-8")


def assembly(body, registers, parameters=("out",), arch=ARCH, more=""):
    """PTX of a kernel `k` whose 64-bit parameters are loaded into %<name>."""
    declared = ", ".join(f".param .u64 {name}" for name in parameters)
    loads = "".join(f".reg .b64 %{n}; ld.param.u64 %{n}, [{n}];\n" for n in parameters)
    return (
        f".version 8.0\n.target {arch}\n.address_size 64\n{more}\n"
        f".visible .entry k({declared})\n{{\n{registers}\n{loads}{body}\nret;\n}}\n"
    )


class LaunchConfig(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint) for name in ("gx", "gy", "gz", "bx", "by", "bz", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    ]


class Buffer:
    """Device memory with the bytes of an array."""

    def __init__(self, device, array):
        self.device = device
        self.room = np.zeros(array.nbytes + 512, np.uint8)
        start = -self.room.ctypes.data % 256
        self.array = self.room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.address = self.array.ctypes.data
        device.driver.emu_add_memory(ctypes.c_void_p(self.address), ctypes.c_size_t(array.nbytes))

    def close(self):
        self.device.driver.emu_remove_memory(ctypes.c_void_p(self.address))


@functools.cache
def _module(ptx):
    """One module of a text per process, as a program would have it."""
    driver = cuda_emulator.install().driver
    handle = ctypes.c_void_p()
    image = ctypes.create_string_buffer(ptx.encode())
    failed = driver.cuModuleLoadData(ctypes.byref(handle), image)
    return handle, failed


def launch(
    ptx,
    arrays,
    *,
    name="k",
    grid=(1, 1, 1),
    block=(32, 1, 1),
    shared=0,
    arch=ARCH,
    options=None,
    optin=None,
):
    """Run a kernel on copies of `arrays` (or on what is no array, as its 8 bytes).

    Returns the arrays as the kernel left them.

    Raises:
        EmulatorError: what the driver says.
    """
    device = cuda_emulator.start(arch, options)
    device.clear_error()
    handle, failed = _module(ptx)
    if failed:
        _module.cache_clear()
        raise EmulatorError(device.error)
    function = ctypes.c_void_p()
    driver = device.driver
    if driver.cuModuleGetFunction(ctypes.byref(function), handle, name.encode()):
        raise EmulatorError(device.error)
    if optin is not None and driver.cuFuncSetAttribute(function, 8, optin):
        raise EmulatorError(device.error)
    buffers = [Buffer(device, a) if isinstance(a, np.ndarray) else a for a in arrays]
    try:
        values = [b.address if isinstance(b, Buffer) else b for b in buffers]
        words = [ctypes.c_uint64(v) for v in values]
        pointers = (ctypes.c_void_p * len(words))(*map(ctypes.addressof, words))
        config = LaunchConfig(*grid, *block, shared, None, None, 0)
        if driver.cuLaunchKernelEx(ctypes.byref(config), function, pointers, None):
            raise EmulatorError(device.error)
        return [b.array.copy() for b in buffers if isinstance(b, Buffer)]
    finally:
        for buffer in buffers:
            if isinstance(buffer, Buffer):
                buffer.close()


def in_every_order(ptx, arrays, **more):
    """The results of a launch, the same whatever the order of threads and the copies' time."""
    results = [
        launch(ptx, arrays, options=Options(order, late_copies=late), **more)
        for order in Order
        for late in (True, False)
    ]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return results[0]
