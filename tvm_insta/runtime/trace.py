"""One record of a trace: what a kernel read and wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvm_insta.runtime.arrays import Array
from tvm_insta.runtime.manifest import Kernel


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


def trace_entries(
    kernels: Sequence[Kernel], inputs: Sequence[Array], outputs: Mapping[tuple[int, int], Array]
) -> list[TraceEntry]:
    """Put a trace of the plain-C form together from what its kernels wrote.

    Args:
        kernels: the calls, from the manifest.
        inputs: the network's.
        outputs: by (index of the call, which of its outputs).
    """
    values: list[Array] = []
    entries = []
    for kernel in kernels:
        args: list[Array | None] = []
        for ref in kernel.args:
            kind, number = ref.split(":")
            known = inputs if kind == "input" else values if kind == "value" else None
            args.append(None if known is None else known[int(number)])
        made = tuple(outputs[kernel.index, n] for n in range(len(kernel.outputs)))
        values.extend(made)
        entries.append(TraceEntry(kernel.index, kernel.symbol, tuple(args), made))
    return entries
