"""PyTorch module in, validated artefact out: the library behind ``python -m tvm_insta.compile``."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tvm_insta._guard import check_versions

check_versions()

import numpy.typing as npt  # noqa: E402  (the guard speaks before TVM does)
import torch  # noqa: E402
import tvm  # noqa: E402
from torch import nn  # noqa: E402

from tvm_insta import runtime  # noqa: E402
from tvm_insta.codegen import plain_c, relax_vm  # noqa: E402
from tvm_insta.codegen.kernels import kernel_table  # noqa: E402
from tvm_insta.codegen.plain_c import CForm  # noqa: E402
from tvm_insta.codegen.relax_vm import VmForm  # noqa: E402
from tvm_insta.codegen.staging import staged  # noqa: E402
from tvm_insta.errors import InstaError  # noqa: E402
from tvm_insta.forms import compare  # noqa: E402
from tvm_insta.frontend import ByteInput, import_torch, random_tensors  # noqa: E402
from tvm_insta.options import RANDOM, CompileOptions  # noqa: E402
from tvm_insta.passes.kernels import kernels_of_layers  # noqa: E402
from tvm_insta.passes.pipeline import PHASES, AfterPhase, Compiled, run_pipeline  # noqa: E402
from tvm_insta.passes.report import Report  # noqa: E402
from tvm_insta.runtime import manifest as manifests  # noqa: E402
from tvm_insta.runtime.preprocess import (  # noqa: E402
    CHANNELS,
    Preprocessing,
    image_files,
    load_images,
)
from tvm_insta.schedules import ConvTiles, ScheduleRecord, family_of  # noqa: E402
from tvm_insta.target import InstaTarget, parse  # noqa: E402
from tvm_insta.tuning.lookup import DEFAULT, STALE, TUNED, Lookup, look_up  # noqa: E402

Progress = Callable[[str, int, int], None]
"""Called with the name of the step that begins, its number and the number of steps."""


@dataclass(frozen=True)
class Source:
    """Where a model came from, so that it can be built again for validation.

    Attributes:
        description: stored in the manifest; for our own models the arguments of `nn.create`.
        preprocessing: how an image becomes an input, see `nn.preprocessing`; None if unknown.
        classes: names of the classes, in the order of the logits; None if unknown.
    """

    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None


class Artefact:
    """A compiled model on disk, loaded when it is first called.

    Attributes:
        path: folder with ``model.so``, ``model.json`` and, in the plain-C form, header and archive.
        report: what became of each layer, and why.
    """

    def __init__(self, path: Path, report: Report, keep: object = None) -> None:
        self.path = path
        self.report = report
        self._module: runtime.Module | None = None
        self._keep = keep

    @property
    def manifest(self) -> manifests.Manifest:
        """The manifest, read from disk."""
        return manifests.read(self.path / manifests.FILE_NAME)

    def load(self) -> runtime.Module:
        """The loaded module.

        Raises:
            ArtefactError: it was compiled for another machine than this one.
        """
        if self._module is None:
            self._module = runtime.load(self.path)
        return self._module

    def __call__(self, *inputs: Any) -> npt.NDArray[Any]:
        """Run the network on numpy arrays or DLPack tensors; see `runtime.Module`."""
        return self.load()(*inputs)


def build(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor] | torch.Tensor,
    target: str = "llvm",
    *,
    out_dir: str | Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    **options: Any,
) -> Artefact:
    """Compile any PyTorch module made of recognised patterns.

    Args:
        module: the network; it is exported in eval mode.
        example_inputs: one tensor per input (or a single tensor), batch first; the shapes but for
            the batch are those of every later call.
        target: target string, preset or JSON.
        out_dir: where the artefact is kept; None keeps it in a temporary folder that lives as long
            as the returned object.
        preprocessing: how an image becomes an input, see `nn.preprocessing`; kept in the manifest,
            and needed for ``input="uint8"``.
        **options: fields of `CompileOptions`.

    Returns:
        The artefact, callable with numpy arrays or DLPack tensors of any batch up to ``max_batch``.

    Raises:
        InstaError: the module, the target or an option cannot be used; the message says how to
            mend it.
    """
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = [example_inputs]
    try:
        chosen = CompileOptions(target=target, **options)
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(CompileOptions))
        raise InstaError(f"got an unknown option ({error}); the options are {names}") from error
    folder = Path(out_dir) if out_dir is not None else None
    keep = None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="tvm_insta-", ignore_cleanup_errors=True)
        folder, keep = Path(temporary.name), temporary
    known = dict(preprocessing or {})
    classes = known.pop("classes", None)
    source = Source(
        {"class": type(module).__qualname__}, known or None, tuple(classes) if classes else None
    )
    artefact = compile_module(module, example_inputs, chosen, folder, source=source)
    artefact._keep = keep
    if keep is not None:
        weakref.finalize(artefact, keep.cleanup)
    return artefact


def compile_module(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    options: CompileOptions,
    out_dir: Path,
    *,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Artefact:
    """Compile ``module`` into ``out_dir``; nothing is left there if any step fails.

    Raises:
        InstaError: as `build`.
    """
    source = source or Source({"class": type(module).__qualname__})
    target = parse(options.target)
    if options.input == "uint8":
        module, example_inputs = take_bytes(module, example_inputs, source.preprocessing)
    # What code generation would refuse is refused before the minutes it takes to get there.
    linker = (plain_c if options.runtime == "c" else relax_vm).require(target, options.name)
    check_binary(options.binary, target)
    _check_storage(options, target)
    samples = _samples(options, target, source, example_inputs)
    steps = ["export", *PHASES, "generate code"]
    started = time.perf_counter()

    def begin(step: str) -> None:
        if progress is not None:
            progress(step, steps.index(step) + 1, len(steps))

    begin("export")
    imported = import_torch(module, example_inputs, max_batch=options.max_batch, dynamic=True)
    verify = _verifier(module, example_inputs, options, target)

    def after_phase(number: int, name: str, mod: tvm.IRModule) -> None:
        begin(steps[number + 2])
        if verify is not None:
            verify(number, name, mod)

    tuned = Lookup()

    def choose(mod: tvm.IRModule) -> Mapping[str, ConvTiles]:
        nonlocal tuned
        tuned = look_up(mod, target, options.log_dir)
        return tuned.parameters

    begin(PHASES[0])
    compiled = run_pipeline(
        imported,
        target,
        batch=1 if options.runtime == "c" else None,
        dump_ir=options.dump_ir,
        after_phase=after_phase,
        choose=choose,
        stem=options.stem,
        storage=options.storage,
        samples=samples,
        binary=options.binary,
        compare=compare(target, options.log_dir),
    )
    compiled.report.log()
    with staged(out_dir) as stage:
        generate = plain_c.c_form if options.runtime == "c" else relax_vm.vm_form
        form = generate(compiled.mod, target, stage, options.name, linker=linker)
        seconds = time.perf_counter() - started
        manifest = _manifest(stage, compiled, tuned, form, target, options, source, seconds)
        manifests.write(stage, manifest)
    return Artefact(out_dir, compiled.report)


_SAMPLES = 64  # images that calibration looks at, at most
_RANDOM_SAMPLES = 8

# By stem and architecture: one of these features; LLVM's names.
_NARROW: dict[str, dict[str, tuple[str, ...]]] = {
    "bf16": {"x86_64": ("avx512bf16",)},
    "int8": {"x86_64": ("avx512vnni", "avxvnni"), "aarch64": ("dotprod",)},
}
_NARROW_TARGETS = {
    "bf16": "x86-64 with avx512bf16",
    "int8": "x86-64 with avx512vnni or avxvnni, or aarch64 with dotprod (without it, NEON "
    "multiplies bytes no faster than float32)",
}


def check_stem(stem: str, target: InstaTarget) -> None:
    """Refuse numbers that the target cannot compute in.

    Raises:
        InstaError: it lacks the instructions.
    """
    wanted = _NARROW.get(stem)
    if wanted and not target.features & set(wanted.get(target.arch, ())):
        raise InstaError(
            f"got stem {stem!r}, but {target.text} is not {_NARROW_TARGETS[stem]}: "
            "name such a CPU (-mcpu=... or -mattr=+...), or use stem fp32"
        )


def random_samples(example_inputs: Sequence[torch.Tensor]) -> list[Any]:
    """Inputs to calibrate with that say nothing of real ones: enough for timing."""
    kinds = [((_RANDOM_SAMPLES, *t.shape[1:]), t.dtype) for t in example_inputs]
    return [tensor.numpy() for tensor in random_tensors(kinds)]


def _samples(
    options: CompileOptions,
    target: InstaTarget,
    source: Source,
    example_inputs: Sequence[torch.Tensor],
) -> list[Any]:
    """Inputs to calibrate with; refuses a stem that the target or the model cannot have."""
    check_stem(options.stem, target)
    if options.stem != "int8":
        return []
    if options.calibrate == RANDOM:
        return random_samples(example_inputs)
    if source.preprocessing is None or len(example_inputs) != 1:
        raise InstaError(
            "got stem 'int8', but it is not known how images become this network's input: compile "
            "a network with one image input that says it, or, from Python, "
            "build(..., preprocessing={...})"
        )
    root = Path(str(options.calibrate))
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    files = image_files(classes or [root])
    count = min(_SAMPLES, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]  # evenly, from every class
    dtype = "uint8" if options.input == "uint8" else "float32"
    return [load_images(chosen, dict(source.preprocessing), dtype)]


def check_binary(binary: str, target: InstaTarget) -> None:
    """Refuse AMX for a target that has none.

    Raises:
        InstaError: "amx" is wished, and the target lacks it.
    """
    if binary != "amx":
        return
    if target.kind != "llvm" or not family_of(target.tvm).tiles:
        raise InstaError(
            f"got binary 'amx', but {target.text} has no amx-int8, amx-tile and avx512bw: name a "
            "CPU that has them (-mcpu=sapphirerapids, or -mattr=+...), or use binary auto"
        )


def _check_storage(options: CompileOptions, target: InstaTarget) -> None:
    """Refuse float16 where no instruction converts it, and where no schedule was tried with it."""
    converts = target.arch == "aarch64" or (target.arch == "x86_64" and "f16c" in target.features)
    if options.storage == "fp16" and not converts:
        raise InstaError(
            f"got storage 'fp16', but {target.text} is neither aarch64 nor x86-64 with f16c, which "
            "convert float16 as they load and store it: name such a CPU (-mcpu=...), or use "
            "storage fp32"
        )


def take_bytes(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    preprocessing: Mapping[str, Any] | None,
) -> tuple[nn.Module, list[torch.Tensor]]:
    """The network with its normalisation in front, and an example input of it: uint8 pixels.

    Raises:
        InstaError: it is not known how images become inputs, or the network takes no images.
    """
    if preprocessing is None:
        raise InstaError(
            "got input 'uint8', but it is not known how this network's images are normalised: "
            "compile with input float32, one of our models or a checkpoint that says it, or, from "
            "Python, build(..., preprocessing={...})"
        )
    how = Preprocessing.from_dict(dict(preprocessing))
    axis = 1 if how.layout == "NCHW" else 3
    channels, shapes = CHANNELS[how.mode], [list(tensor.shape) for tensor in example_inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][axis] != channels:
        raise InstaError(
            f"got input 'uint8' and example inputs of the shapes {shapes}, but the preprocessing "
            f"makes one image of layout {how.layout} with {channels} channels: use input float32"
        )
    wrapped = ByteInput(module, scale=how.scale, mean=how.mean, std=how.std, channel_axis=axis)
    wrapped.training = module.training
    return wrapped, [torch.zeros(shapes[0], dtype=torch.uint8)]


def _verifier(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    options: CompileOptions,
    target: InstaTarget,
) -> AfterPhase | None:
    if not options.verify_stages:
        return None
    from tvm_insta.validate.stages import StageVerifier

    return StageVerifier(module, example_inputs, target)


def _manifest(
    folder: Path,
    compiled: Compiled,
    tuned: Lookup,
    form: CForm | VmForm,
    target: InstaTarget,
    options: CompileOptions,
    source: Source,
    seconds: float,
) -> manifests.Manifest:
    program = form.plan.program if isinstance(form, CForm) else form.program
    table = kernel_table(program, batched=isinstance(form, CForm))
    schedules = {
        record.function: f"{record.rule}, {_state(record, tuned)}" for record in compiled.schedules
    }
    return manifests.Manifest(
        name=options.name,
        form=options.runtime,
        library=f"{options.name}.so" if target.arch != "wasm32" else f"{options.name}.a",
        files=manifests.describe_files(folder, form.files),
        target_text=target.text,
        target=target.canonical,
        machine=target.arch if target.kind == "llvm" else platform.machine(),
        needs=form.needs,
        versions={
            "tvm": tvm.__version__,
            "tvm_ffi": metadata.version("apache-tvm-ffi"),
            "tvm_insta": metadata.version("tvm-insta"),
            "torch": torch.__version__,
        },
        inputs=table.inputs,
        outputs=table.outputs,
        max_batch=options.max_batch,
        kernels=table.kernels,
        layers=_layers(compiled, schedules),
        binarisations=_binarisations(compiled, table.kernels),
        preprocessing=None if source.preprocessing is None else dict(source.preprocessing),
        classes=source.classes,
        source=dict(source.description),
        options={
            **{
                field.name: value if isinstance(value, (int, bool)) else str(value)
                for field in dataclasses.fields(options)
                if (value := getattr(options, field.name)) is not None
            },
            "compile_seconds": round(seconds, 2),
        },
        working_set=form.working_set if isinstance(form, CForm) else None,
        memory=form.memory if isinstance(form, CForm) else None,
    )


def _binarisations(
    compiled: Compiled, kernels: Sequence[manifests.Kernel]
) -> tuple[manifests.Binarisation, ...]:
    """Which kernel calls pack bits, in the order in which the network packs."""
    calls = [k.index for k in kernels if any(out.dtype == "uint32" for out in k.outputs)]
    found = []
    for pack in compiled.report.packs:
        fields = dataclasses.asdict(pack)
        found.append(manifests.Binarisation(calls[fields.pop("kernel")], **fields))
    return tuple(found)


def _state(record: ScheduleRecord, tuned: Lookup) -> str:
    """Whether the kernel's schedule is tuned, and to what is there now."""
    wish = tuned.parameters.get(record.function)
    if wish is not None:
        return TUNED if record.tiles == wish else STALE
    return tuned.states.get(record.function, DEFAULT)


def _layers(compiled: Compiled, schedules: Mapping[str, str]) -> tuple[manifests.Layer, ...]:
    layers = []
    for layer, symbol in (
        (each, name)
        for group, name in kernels_of_layers(compiled.mod, compiled.report)
        for each in group
    ):
        layers.append(
            manifests.Layer(
                name=layer.name,
                op=layer.op,
                kind=layer.kind,
                shape=layer.output_shape,
                weight=layer.weight_shape,
                bits=layer.bits,
                macs=layer.macs,
                reason=layer.reason or None,
                notes=layer.notes,
                kernel=symbol,
                schedule=schedules.get(symbol or ""),
            )
        )
    return tuple(layers)
