"""One record of a trace: what a kernel read and wrote."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.runtime.arrays import Array


@dataclass(frozen=True)
class TraceEntry:
    """A kernel call during `Module.trace`; all arrays are copies.

    `inputs` holds None where the form does not give the array (constants in the plain-C form).
    """

    index: int
    symbol: str
    inputs: tuple[Array | None, ...]
    outputs: tuple[Array, ...]

    @property
    def output(self) -> Array:
        """The first output, for the many kernels that have one."""
        return self.outputs[0]
