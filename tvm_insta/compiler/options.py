"""What can be chosen when a model is compiled; stored in the artefact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tvm_insta.errors import InstaError
from tvm_insta.runtime.manifest_checks import MOST

RUNTIMES = ("vm", "c")
INPUTS = ("float32", "uint8")
STEMS = ("fp32", "bf16", "int8")
STORAGE = ("fp32", "fp16")
BINARY = ("auto", "popcount", "amx")
AMX_WEIGHTS = ("auto", "bits", "bytes")
SIGN_OF_ZERO = ("exact", "+1")
RANDOM = "random"
"""Calibration with random inputs: ranges of no use but for timing."""


@dataclass(frozen=True)
class CompileOptions:
    """Options of one compilation.

    Attributes:
        target: target string, preset or JSON, see `tvm_insta.target.parse`.
        runtime: "vm" (Relax virtual machine, needs the TVM runtime library) or "c" (plain C, needs
            libc only).
        input: "float32" (normalised images, as PyTorch takes them) or "uint8" (pixels of the same
            shape and layout; the network normalises them as its preprocessing says).
        stem: numbers in which the stem and the other float layers compute: "fp32" (the reference),
            "bf16" (AVX-512 BF16) or "int8" (x86 with VNNI, aarch64 with dotprod).
        storage: how images lie in memory between kernels: "fp32", or "fp16" (aarch64, and x86 with
            F16C), which halves them and rounds what is stored; kernels compute in float32.
        calibrate: for "int8", a folder of sample images, or "random".
        binary: how binary convolutions compute: "popcount", "amx" (as products of bytes wherever
            AMX tiles can, else by popcount), or "auto" (the one that should be faster, layer by
            layer). The integers are the same.
        amx_weights: what AMX tiles take as the weights of a binary layer: "bits", expanded by every
            task, "bytes", which take eight times the memory, in the artefact too, or "auto" (bytes
            where they fit the second-level cache beside the rest). The integers are the same.
        sign_of_zero: "exact" (torch.sign(0) is 0: activations whose sign may be 0 take two bits),
            or "+1" (one bit; validate counts the activations that it changes).
        max_batch: largest batch one call may have.
        name: prefix of the files and of the C functions.
        dump_ir: folder for one TVMScript file per phase, or None.
        verify_stages: execute the module after every phase and compare it with PyTorch.
        check: compare the artefact with PyTorch before it is handed over.
        profile: kernels count the time they take, for ``bench --layers``; it costs a reading of the
            clock or two for each.
        strict_schedules: a kernel that falls back to a slower schedule is an error.
        require_binary: a convolution or dense layer that stays float is an error.
        allow_float: layers that may, as module paths; each stands for the layers below it, too.
        log_dir: folder of tuning records, one folder per target in it; None for the packaged ones.
    """

    target: str = "llvm"
    runtime: str = "vm"
    input: str = "float32"
    stem: str = "fp32"
    storage: str = "fp32"
    calibrate: str | None = None
    binary: str = "auto"
    amx_weights: str = "auto"
    sign_of_zero: str = "exact"
    max_batch: int = 64
    name: str = "model"
    dump_ir: Path | None = None
    verify_stages: bool = False
    check: bool = True
    profile: bool = False
    strict_schedules: bool = False
    require_binary: bool = False
    allow_float: tuple[str, ...] = ()
    log_dir: Path | None = None

    def __post_init__(self) -> None:
        self._take_text()
        if self.runtime not in RUNTIMES:
            raise InstaError(
                f"got runtime {self.runtime!r}, but it must be one of {', '.join(RUNTIMES)}: vm is "
                "loaded by the TVM runtime, c needs libc only"
            )
        if self.input not in INPUTS:
            raise InstaError(
                f"got input {self.input!r}, but it must be one of {', '.join(INPUTS)}: float32 for "
                "normalised images, uint8 for their pixels"
            )
        if self.stem not in STEMS:
            raise InstaError(
                f"got stem {self.stem!r}, but it must be one of {', '.join(STEMS)}: fp32 is the "
                "reference, the others are faster and change the result a little"
            )
        if self.storage not in STORAGE:
            raise InstaError(
                f"got storage {self.storage!r}, but it must be one of {', '.join(STORAGE)}: fp32 "
                "is the reference, fp16 takes half the memory and rounds what is stored"
            )
        if self.binary not in BINARY:
            raise InstaError(
                f"got binary {self.binary!r}, but it must be one of {', '.join(BINARY)}: auto "
                "takes, layer by layer, what should be faster on the target"
            )
        if self.amx_weights not in AMX_WEIGHTS:
            raise InstaError(
                f"got amx_weights {self.amx_weights!r}, but it must be one of "
                f"{', '.join(AMX_WEIGHTS)}: auto takes bytes where a layer's fit the cache"
            )
        if self.sign_of_zero not in SIGN_OF_ZERO:
            raise InstaError(
                f"got sign_of_zero {self.sign_of_zero!r}, but it must be one of "
                f"{', '.join(SIGN_OF_ZERO)}: exact keeps the third value of torch.sign, +1 saves a "
                "bit"
            )
        if (self.stem == "int8") != (self.calibrate is not None):
            raise InstaError(
                f"got stem {self.stem!r} with calibrate {self.calibrate!r}, but stem int8 needs a "
                "folder of sample images (or 'random', for timing only), and no other stem does"
            )
        for what, chosen in (("stem", self.stem), ("storage", self.storage)):
            if self.verify_stages and chosen != "fp32":
                raise InstaError(
                    f"got verify_stages with {what} {chosen!r}, but every phase is held against "
                    f"the fp32 network: verify with {what} fp32, and the artefact with the "
                    "validate command"
                )
        if self.allow_float and not self.require_binary:
            raise InstaError(
                f"got allow_float {', '.join(self.allow_float)}, but every layer may stay float: "
                "give require_binary, too, or leave it away"
            )
        if not 1 <= self.max_batch <= MOST:
            raise InstaError(
                f"got max_batch {self.max_batch}, but it must be at least 1 and at most {MOST}"
            )

    def _take_text(self) -> None:
        """Folders may be given as text, and layers as on the command line, with commas."""
        for name in ("dump_ir", "log_dir"):
            if isinstance(given := getattr(self, name), str):
                object.__setattr__(self, name, Path(given))
        if isinstance(self.allow_float, str):
            names = tuple(name.strip() for name in self.allow_float.split(","))
            object.__setattr__(self, "allow_float", names)
