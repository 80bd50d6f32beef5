"""The rows of an explanation: what is known of each layer, each kernel and the whole."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.report.layer_times import LayerTimes
from tvm_insta.report.missed import Missed

SCHEMA = "tvm_insta.explain/1"


@dataclass(frozen=True)
class Timing:
    """What a kernel or a layer takes.

    Attributes:
        seconds: median of one run.
        share: of the time of all kernels, 0 to 1.
        gmacs: 1e9 multiply-accumulates per second; None without any.
        of_peak: share of the measured peak of these instructions; None where none was measured.
    """

    seconds: float
    share: float
    gmacs: float | None
    of_peak: float | None


@dataclass(frozen=True)
class KernelRow:
    """One kernel call.

    Attributes:
        index: position in the order of execution.
        symbol: its function.
        operators: what was fused into it, in order.
        layers: names of the layers that it computes.
        family: instruction-set family: "amx", or that of the target's schedules.
        rule: kind of its schedule, see `tvm_insta.schedules.ScheduleRecord`.
        state: "tuned", "similar", "default" or "stale".
        fallback: why a slower schedule was taken; None where the intended one was.
        reads: indices of the calls whose results it reads; -1 is an input of the network.
        shape: of its first output, of one image.
        macs: multiply-accumulates for one image.
        operations: single-bit multiply-accumulates for one image of a binary kernel, `macs` else.
        weight_bytes: of the constants it reads.
        activation_bytes: of what else it reads and of what it writes, for one image.
        timing: None where it was not measured.
    """

    index: int
    symbol: str
    operators: tuple[str, ...]
    layers: tuple[str, ...]
    family: str
    rule: str
    state: str
    fallback: str | None
    reads: tuple[int, ...]
    shape: tuple[int | str, ...]
    macs: int
    operations: int
    weight_bytes: int
    activation_bytes: int
    timing: Timing | None = None


@dataclass(frozen=True)
class Advice:
    """Why a layer stays float: a code of `tvm_insta.frontend.Reason`, and what to change."""

    code: str
    change: str


@dataclass(frozen=True)
class LayerRow:
    """One layer; bytes and times are of all kernel calls that compute it, with what they fused.

    `input` and `output` are "packed" or a dtype; the other fields are those of
    `tvm_insta.runtime.manifest.Layer` and of `KernelRow`.
    """

    name: str
    op: str
    kind: str
    line: str
    input: str
    output: str
    activation_bits: int
    weight_bits: int
    planes: int
    reason: str | None
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]
    shape: tuple[int | str, ...]
    weight_shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    activation_bytes: int
    kernels: tuple[int, ...]
    family: str
    rule: str
    state: str
    fallback: str | None
    timing: Timing | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over the network, for one image; `seconds` is the whole run's, None if not measured."""

    layers: int
    binary_layers: int
    macs: int
    binary_macs: int
    kernels: int
    weight_bytes: int
    activation_bytes: int
    working_set: int | None
    kernel_seconds: float | None
    seconds: float | None


@dataclass(frozen=True)
class Explanation:
    """Everything that explain knows of one artefact; `name` is the network's, where known."""

    name: str
    form: str
    target: str
    layers: tuple[LayerRow, ...]
    kernels: tuple[KernelRow, ...]
    totals: Totals
    missed: tuple[Missed, ...]
    times: LayerTimes | None = None
    schema: str = SCHEMA

    def __str__(self) -> str:
        from tvm_insta.report.explain_text import explain_lines

        return "\n".join(explain_lines(self))
