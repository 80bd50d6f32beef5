"""A network's kernels without a card: launches, bytes, and what bounds each by the model."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tvm_insta
from benchmarks import common
from benchmarks.engines import input_shape
from tvm_insta import cuda_emulator
from tvm_insta.codegen.cuda_device import find_nvcc
from tvm_insta.codegen.nvcc_compile import KernelResources, ptx_resources
from tvm_insta.cuda_emulator import LaunchCounts
from tvm_insta.cuda_emulator.fatbin import images_in, ptx_of
from tvm_insta.runtime.trace import TraceEntry
from tvm_insta.tuning.cuda_cards import card_of
from tvm_insta.tuning.cuda_model import estimate


@dataclass(frozen=True)
class KernelCounts:
    """One kernel of a network, for one image.

    Attributes:
        symbol: its name in the manifest.
        layers: of the network that it computes.
        operators: that were fused into it.
        launches: of the card's kernels.
        bytes_read, bytes_written: of its tensors, each once.
        blocks, threads: of its grid, and of a block.
        registers: of a thread.
        resident: blocks that a multiprocessor holds at once.
        waves: how often the card is filled.
        limit: what bounds it by the model.
        shares: of everything that could bound it, relative to the limit.
    """

    symbol: str
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    launches: int
    bytes_read: int
    bytes_written: int
    blocks: int
    threads: int
    registers: int
    resident: int
    waves: int
    limit: str
    shares: dict[str, float]


@dataclass(frozen=True)
class Call:
    """What a kernel call of the manifest computes: layers, and operators that were fused."""

    layers: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class NetworkCounts:
    """A network for one image."""

    model: str
    arch: str
    card: str
    kernels: tuple[KernelCounts, ...]

    @property
    def launches(self) -> int:
        """Of all kernels."""
        return sum(kernel.launches for kernel in self.kernels)


def count_network(model: str, variant: str, arch: str, folder: Path) -> NetworkCounts:
    """Compile a network for a card and run one image on the emulated device.

    Raises:
        InstaError: nvcc is missing, or the network cannot be compiled or run.
    """
    artefact = compile_network(model, variant, arch, folder, max_batch=1)
    options = cuda_emulator.Options(races=False, counts=True)
    module = tvm_insta.load(artefact, device="emulated")
    device = cuda_emulator.start(arch, options)
    device.take_counts()
    image = np.random.default_rng(0).standard_normal(input_shape(model)).astype(np.float32)
    entries = module.trace(image)
    counts = device.take_counts()
    calls = [
        Call(
            tuple(layer.name for layer in module.manifest.layers if kernel.index in layer.calls),
            kernel.operators,
        )
        for kernel in module.manifest.kernels
    ]
    library = (artefact / module.manifest.library).read_bytes()
    resources = [
        found
        for code in images_in(library)
        for found in ptx_resources(ptx_of(code), arch, find_nvcc())
    ]
    return NetworkCounts(
        model, arch, card_of(arch).name, tuple(rows(entries, calls, counts, resources, arch))
    )


def compile_network(model: str, variant: str, arch: str, folder: Path, *, max_batch: int) -> Path:
    """The artefact of a network with random weights.

    Raises:
        WorkerError: it cannot be compiled; with the compiler's last line.
    """
    out = folder / f"{model}-{arch}-{max_batch}"
    command = [sys.executable, "-m", "tvm_insta.compile", "--model", model, "--variant", variant]
    command += ["--target", f"cuda -arch={arch}", "--max-batch", str(max_batch), "--no-check"]
    done = subprocess.run(
        [*command, "-o", str(out)], capture_output=True, text=True, check=False, cwd=common.ROOT
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise common.WorkerError(f"{model} for {arch} cannot be compiled: {lines[-1]}")
    return out


def rows(
    entries: Sequence[TraceEntry],
    calls: Sequence[Call],
    counts: Sequence[LaunchCounts],
    resources: Sequence[KernelResources],
    arch: str,
) -> list[KernelCounts]:
    """A row for each kernel call of a trace; a call may launch several of the card's kernels."""
    card, taken = card_of(arch), {each.name: each.registers for each in resources}
    times = Counter(entry.symbol for entry in entries)
    # As TVM names the kernels of a function: FUNCTION_kernel, FUNCTION_kernel_1, ...
    ends = ["", *(f"_{number}" for number in range(1, len(counts) + 1))]
    known = {f"{symbol}_kernel{end}": symbol for symbol in times for end in ends}
    strange = [found.kernel for found in counts if found.kernel not in known]
    if strange:
        raise common.WorkerError(f"the kernel {strange[0]} is of no call of the network")
    launched = Counter(known[found.kernel] for found in counts)
    left, result = list(counts), []
    for entry, call in zip(entries, calls, strict=True):
        number = launched[entry.symbol] // times[entry.symbol]
        mine, left = left[:number], left[number:]
        read, written = (
            sum(0 if array is None else array.nbytes for array in arrays)
            for arrays in (entry.inputs, entry.outputs)
        )
        made = [estimate(card, each, taken[each.kernel], read + written) for each in mine]
        slowest = max(range(len(made)), key=lambda index: made[index].clocks)
        chosen, launch = made[slowest], mine[slowest]
        most = max(chosen.block_clocks.values())
        shares = {
            limit.value: round(clocks / most, 3)
            for limit, clocks in chosen.block_clocks.items()
            if clocks
        }
        result.append(
            KernelCounts(
                symbol=entry.symbol,
                layers=call.layers,
                operators=call.operators,
                launches=number,
                bytes_read=read,
                bytes_written=written,
                blocks=launch.blocks,
                threads=launch.threads,
                registers=taken[launch.kernel],
                resident=chosen.resident,
                waves=chosen.waves,
                limit=chosen.limit.value,
                shares=shares,
            )
        )
    return result
