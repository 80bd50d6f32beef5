"""The entries of the manifest `model.json`; every one checks itself when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm_insta.runtime.manifest_checks import check

SCHEMA = "tvm_insta.artefact/3"


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the artefact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorInfo:
    """A tensor; a symbolic dimension is `"batch"` or a product such as `"batch * 64"`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One convolution or dense layer of the network as the compiler saw it.

    `op` names the operator, `kind` is `binary` or `float`, `shape` the output's, `weight` the
    weights' before packing, `bits` those of an activation (1 for a binary layer, None for a float
    one), `macs` the multiply-accumulates for one image. `reason` says why a layer stayed float.
    """

    name: str
    op: str
    kind: str
    shape: tuple[int | str, ...]
    macs: int
    weight: tuple[int, ...] = ()
    bits: int | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    calls: tuple[int, ...] = ()
    """Indices in `Manifest.kernels` of the calls that compute it, several for several planes; none
    where it is not known."""
    reasons: tuple[str, ...] = ()
    """Codes of the reasons, see `tvm_insta.frontend.Reason`."""
    line: str = ""
    """File name and line of the user's code."""
    weight_bits: int = 0
    """Bits of a weight of a binary layer; ternary weights have 2."""
    planes: int = 0
    """Kernels of +-1 weights that compute a binary layer."""
    compute_dtype: str = ""
    """Of a float layer the numbers it computes in: `fp32`, `bf16` or `int8`; what it may differ by
    hangs on them. Empty for a binary layer, and in artefacts of versions before this entry."""

    @property
    def schedule(self) -> Schedule | None:
        """What shaped the first kernel that computes it; None where it is not known."""
        found: Schedule | None = vars(self).get("_schedule")
        return found


@dataclass(frozen=True)
class Schedule:
    """What shaped the code of a kernel.

    `rule` names the kind of schedule, see `tvm_insta.schedules.ScheduleRecord`; `state` is `tuned`
    (from a record in the logs), `similar` (from one of the same layer with another epilogue),
    `stale` (there is a record, for other schedules than these) or `default`. `fallback` says why
    the rule that is meant for such a kernel did not apply, None where it did.
    """

    rule: str
    state: str
    fallback: str | None = None


@dataclass(frozen=True)
class Kernel:
    """One kernel call, in order of execution."""

    index: int
    symbol: str
    args: tuple[str, ...]
    """`input:i`, `constant:i`, or `value:i`: the i-th kernel output counted over all calls."""
    outputs: tuple[TensorInfo, ...]
    operators: tuple[str, ...] = ()
    """Relax operators that were fused into it, in order, such as `insta.threshold_pack`."""
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Site:
    """Which level tensor of the PyTorch network a compare-and-pack kernel packs.

    Names are those of nodes in the graph that `tvm_insta.frontend.export_graph` gives.
    """

    compared: str | None
    """The tensor that the kernel compares; None where it is not in that graph."""
    roots: tuple[str, ...]
    """The tensors from which the levels are computed."""
    result: str
    """The level tensor: `base + step * code`."""
    base: float
    step: float
    axes: tuple[int, ...]
    """Codes in the kernel's layout are transposed by these axes and then have the shape of
    `result`."""
    every: tuple[int, ...] = ()
    """For each dimension of `result`, the distance of its elements in what is packed, with zeros
    between them; () where it is 1."""


@dataclass(frozen=True)
class Binarisation:
    """One compare-and-pack kernel call: how its words are read, see `tvm_insta.ops.packing`.

    Where the output is int8, each channel has a byte in place of a bit, +1 or -1, and the words of
    the padding are bytes, too.
    """

    kernel: int
    """Index of the call in `Manifest.kernels`."""
    channels: int
    bits: int
    """Bits of an activation."""
    compare: str
    """`ge`, `gt`, `le` or `lt`: x compared with the threshold sets a bit."""
    groups: int
    pad: tuple[int, ...]
    """Zero words around the image: top, left, bottom, right."""
    thresholds: str | None = None
    """Constant thresholds, little-endian float32 as hexadecimal digits; None where they depend on
    the instance. A trace of the plain-C form holds no constants."""
    threshold_shape: tuple[int, ...] = ()
    """Shape of the constant thresholds, `[L, *B]` with B broadcast to the compared tensor."""
    output: int = 0
    """Which of the call's outputs holds the words, or bytes."""
    source: str = "argument:0"
    """The compared tensor: `argument:i` or `output:i` of the call."""
    threshold: str = "argument:1"
    """The thresholds, likewise; constant ones are in `thresholds`."""
    nan: int = 0
    """The code of NaN: how many comparisons, from the first, are `not` of their opposites."""
    site: Site | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that the plain-C form needs beside its code.

    `weights` and `arena` are there once; `thread` is what each thread after the first adds. Most of
    the arena is in use while `kernel` runs: `alive` bytes, of which `scratch` belong to that kernel
    alone and the rest are activations.
    """

    weights: int
    arena: int
    kernel: str
    alive: int
    scratch: int
    thread: int


@dataclass(frozen=True)
class Manifest:
    """Everything the loader, the validator and a curious reader need to know of an artefact.

    `name` prefixes the C functions of the plain-C form. `needs` holds LLVM feature names.
    `versions` holds at least `tvm`, `tvm_ffi` and `tvm_insta`. `working_set` is the number of bytes
    of constants and activations one image touches, and `memory` what they are made of, or None
    where it is not known. `features` are the LLVM features of the target, used or not, `family` the
    family of processors that its schedules are made for (such as `avx512`), and `constants` what
    `constant:i` stands for. Several `outputs` lie behind each other in one buffer, image by image.
    `images_at_once` is how many images of a batch the vm form computes in one pass on a CPU, as
    many as stay in a cache; None where it computes them all, or one after another.
    """

    name: str
    form: str
    library: str
    files: dict[str, FileEntry]
    target_text: str
    target: str
    machine: str
    needs: tuple[str, ...]
    versions: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch: int
    kernels: tuple[Kernel, ...]
    layers: tuple[Layer, ...] = ()
    binarisations: tuple[Binarisation, ...] = ()
    preprocessing: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    working_set: int | None = None
    memory: Memory | None = None
    features: tuple[str, ...] = ()
    family: str = ""
    constants: tuple[TensorInfo, ...] = ()
    images_at_once: int | None = None
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        check(self)
        for layer in self.layers:
            if layer.calls:
                # Not a field: the manifest has it at the kernels.
                object.__setattr__(layer, "_schedule", self.kernels[layer.calls[0]].schedule)

    def kernels_of(self, layer: Layer) -> tuple[Kernel, ...]:
        """The kernel calls that compute a layer."""
        return tuple(self.kernels[call] for call in layer.calls)
