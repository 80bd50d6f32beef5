"""TIR functions as CUDA kernels on the emulated device: one compilation for many of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tvm
from tvm import tirx

from tvm_insta import cuda_emulator
from tvm_insta.codegen.cuda_device import device_compiler, device_modules
from tvm_insta.cuda_emulator import EmulatorError, Options
from tvm_insta.schedules.cuda.bind import CudaTile, bind
from tvm_insta.target import parse


class Kernels:
    """Compiled functions by name."""

    def __init__(
        self,
        functions: Mapping[str, tirx.PrimFunc],
        arch: str,
        tiles: Mapping[str, CudaTile] | None = None,
        *,
        source_only: bool = False,
    ) -> None:
        target = parse(f"cuda -arch={arch}")
        self.arch = arch
        bound = {}
        for name, function in functions.items():
            made = bind(function, target.tvm, (tiles or {}).get(name))
            assert made is not None, f"no rule schedules {name}"
            bound[name] = made.with_attr("global_symbol", name)
        with device_compiler(target, source_only=source_only):
            self.executable = tvm.compile(tvm.IRModule(bound), target=target.tvm)
        (module,) = device_modules(self.executable.mod)
        self.source = module.inspect_source()

    def all(
        self, name: str, *arrays: np.ndarray, options: Options | None = None
    ) -> list[np.ndarray]:
        """The arguments of a function, as it leaves them."""
        device = cuda_emulator.start(self.arch, options)
        device.clear_error()
        on_device = [tvm.runtime.tensor(array, tvm.cuda(0)) for array in arrays]
        try:
            self.executable[name](*on_device)
        except RuntimeError as error:  # TVM passes on only that a call of CUDA failed
            raise EmulatorError(device.error) from error
        return [each.numpy() for each in on_device]

    def __call__(
        self, name: str, *arrays: np.ndarray, options: Options | None = None
    ) -> np.ndarray:
        """The last argument of a function, as it leaves it."""
        return self.all(name, *arrays, options=options)[-1]
