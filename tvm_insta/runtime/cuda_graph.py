"""A network's kernels for one batch as a CUDA graph: captured once, launched by one call.

At small batches launching a kernel takes the host longer than running it takes the card. A graph is
captured from the virtual machine's own launches, so it holds the same kernels with the same
addresses, and computes the same bytes. All memory that these addresses lie in belongs to the graph
as long as it lives.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import vm_interface

_LIBRARY = "libcudart.so.13"  # loaded by now; of this name in NVIDIA's wheels and the emulator
MOST_GRAPHS = 8
"""How many batches of a module have a graph at once; each graph has its own memory."""

_Shapes = tuple[tuple[int, ...], ...]
_NON_BLOCKING = 1  # cudaStreamNonBlocking
# cudaStreamCaptureModeRelaxed: the virtual machine allocates its tensors between the launches.
_RELAXED = 2


class CudaGraph:
    """`main` of a virtual machine on inputs of its own, captured.

    Attributes:
        inputs: tensors on the card; write the inputs here before `launch`.
        output: what the graph writes.
    """

    def __init__(
        self, ffi: ModuleType, vm: Any, main: Callable[..., Any], inputs: Sequence[Any]
    ) -> None:
        """Capture; every kernel must have run before, which loads it.

        Args:
            ffi: the module tvm_ffi.
            vm: the virtual machine.
            main: its function.
            inputs: tensors on the card, which the graph keeps.

        Raises:
            ArtefactError: CUDA refuses.
        """
        self.inputs = list(inputs)
        self._cudart = ctypes.CDLL(_LIBRARY)
        self._cudart.cudaGetErrorName.restype = ctypes.c_char_p
        self._cudart.cudaGetErrorString.restype = ctypes.c_char_p
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._executable = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        try:
            self._call("cudaStreamBeginCapture", stream, _RELAXED)
            try:
                self._kept: list[Any] = []
                self.output = self._recorded(ffi, vm, main, stream)
            finally:
                ended = self._cudart.cudaStreamEndCapture(stream, ctypes.byref(graph))
            self._check("cudaStreamEndCapture", ended)
            executable = ctypes.byref(self._executable)
            self._call("cudaGraphInstantiate", executable, graph, ctypes.c_ulonglong(0))
        finally:
            if graph:
                self._cudart.cudaGraphDestroy(graph)
            self._cudart.cudaStreamDestroy(stream)
        weakref.finalize(self, self._cudart.cudaGraphExecDestroy, self._executable)

    def _recorded(
        self, ffi: ModuleType, vm: Any, main: Callable[..., Any], stream: ctypes.c_void_p
    ) -> Any:
        """Call `main` while its launches are recorded; keep every tensor that a kernel is given."""

        def keep(_func: object, _name: str, _before: bool, _result: object, *args: Any) -> int:
            self._kept += vm_interface.tensors(args)
            return 0

        vm["set_instrument"](ffi.convert(keep))
        try:
            with ffi.use_raw_stream(ffi.device("cuda", 0), stream.value or 0):
                return main(*self.inputs)
        finally:
            vm["set_instrument"](None)

    def launch(self) -> None:
        """Compute `output` from what is in `inputs`, on the legacy stream.

        Raises:
            RuntimeError: CUDA refuses.
        """
        code = self._cudart.cudaGraphLaunch(self._executable, None)
        if code:
            raise RuntimeError(self._said("cudaGraphLaunch", code))

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, self._cudart[name](*arguments))

    def _check(self, name: str, code: int) -> None:
        if code:
            raise ArtefactError(
                f"CUDA cannot capture the network's kernels ({self._said(name, code)}): load it "
                "without cuda_graph"
            )

    def _said(self, name: str, code: int) -> str:
        parts = [self._cudart.cudaGetErrorName(code), self._cudart.cudaGetErrorString(code)]
        return f"{name}: " + ", ".join(part.decode(errors="replace") for part in parts if part)


class CudaGraphs:
    """The graphs of a module, one for each batch; the least recently used go first."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[_Shapes, CudaGraph] = OrderedDict()

    def of(self, inputs: Sequence[Any]) -> CudaGraph | None:
        """The graph for inputs of these shapes, if there is one."""
        key = _shapes(inputs)
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def add(self, ffi: ModuleType, vm: Any, main: Callable[..., Any], inputs: list[Any]) -> None:
        """Capture the graph of these inputs, which it keeps."""
        while len(self._graphs) >= MOST_GRAPHS:
            self._graphs.popitem(last=False)
        self._graphs[_shapes(inputs)] = CudaGraph(ffi, vm, main, inputs)


def _shapes(inputs: Sequence[Any]) -> _Shapes:
    return tuple(tuple(map(int, value.shape)) for value in inputs)
