"""The manifest's entries about a program: its inputs, its output and its kernel calls."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.codegen.program import BATCH, Program, TensorSpec
from tvm_insta.runtime.manifest import Kernel, TensorInfo


@dataclass(frozen=True)
class KernelTable:
    """What `tvm_insta.runtime.Manifest` takes from a program."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kernels: tuple[Kernel, ...]
    constants: tuple[TensorInfo, ...]


def kernel_table(program: Program, *, batched: bool = False) -> KernelTable:
    """Describe `program` for the manifest.

    Args:
        program: what `extract` returned.
        batched: True for the plain-C form, whose driver runs a static batch of 1 once per image:
            a leading 1 is then written as `"batch"`.
    """

    def info(spec: TensorSpec) -> TensorInfo:
        shape = spec.shape
        if batched and shape and shape[0] == 1:
            shape = (BATCH, *shape[1:])
        return TensorInfo(spec.name, shape, spec.dtype)

    kernels = tuple(
        Kernel(
            index=index,
            symbol=call.symbol,
            args=tuple(str(ref) for ref in call.args),
            outputs=tuple(info(program.values[number]) for number in call.outputs),
            operators=call.operators,
        )
        for index, call in enumerate(program.calls)
    )
    return KernelTable(
        inputs=tuple(info(spec) for spec in program.inputs),
        outputs=tuple(map(info, program.outputs)),
        kernels=kernels,
        constants=tuple(
            TensorInfo(f"constant{index}", array.shape, str(array.dtype))
            for index, array in enumerate(program.constants)
        ),
    )
