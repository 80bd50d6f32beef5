"""PyTorch module in, validated artefact out: the library behind ``python -m tvm_insta.compile``."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm_insta.target.tvm_versions import check_versions

check_versions()

import torch  # noqa: E402
import tvm  # noqa: E402
from torch import nn  # noqa: E402

from tvm_insta.codegen import plain_c, relax_vm  # noqa: E402
from tvm_insta.codegen.images_at_once import images_at_once  # noqa: E402
from tvm_insta.codegen.staging import check_folder, staged  # noqa: E402
from tvm_insta.compiler.artefact import Artefact  # noqa: E402
from tvm_insta.compiler.kernel_variants import measured_figures  # noqa: E402
from tvm_insta.compiler.manifest_builder import Source, build_manifest  # noqa: E402
from tvm_insta.compiler.model_inputs import samples, take_bytes  # noqa: E402
from tvm_insta.compiler.option_checks import check_options  # noqa: E402
from tvm_insta.compiler.options import CompileOptions  # noqa: E402
from tvm_insta.compiler.schedule_check import check_schedules  # noqa: E402
from tvm_insta.compiler.self_check import Checked, check_compiled  # noqa: E402
from tvm_insta.errors import InstaError  # noqa: E402
from tvm_insta.frontend import Imported, exclusive, import_torch  # noqa: E402
from tvm_insta.passes.context import Context  # noqa: E402
from tvm_insta.passes.pipeline import PHASES, AfterPhase, Compiled, run_pipeline  # noqa: E402
from tvm_insta.report.require import require_binary  # noqa: E402
from tvm_insta.runtime import manifest as manifests  # noqa: E402
from tvm_insta.runtime.preprocess import Preprocessing  # noqa: E402
from tvm_insta.schedules import Tiles, back_end  # noqa: E402
from tvm_insta.target import InstaTarget, parse  # noqa: E402
from tvm_insta.target.toolchain import Linker  # noqa: E402
from tvm_insta.tuning.lookup import Lookup, look_up  # noqa: E402
from tvm_insta.validate.batch import check_batch  # noqa: E402

CHECK = "check against PyTorch"

Progress = Callable[[str, int, int], None]
"""Called with the name of the step that begins, its number and the number of steps."""


def build(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor] | torch.Tensor,
    target: str = "llvm",
    *,
    out_dir: str | Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    description: Mapping[str, Any] | None = None,
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
        description: where the module came from, for the manifest; None keeps the name of its class.
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
    known = dict(preprocessing or {})
    classes = known.pop("classes", None)
    source = Source(
        dict(description or {"class": type(module).__qualname__}),
        known or None,
        tuple(classes) if classes else None,
    )
    if out_dir is not None:
        return compile_module(module, example_inputs, chosen, Path(out_dir), source=source)
    folder = Path(tempfile.mkdtemp(prefix="tvm_insta-"))
    try:
        artefact = compile_module(module, example_inputs, chosen, folder, source=source)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(artefact, shutil.rmtree, folder, ignore_errors=True)
    return artefact


@exclusive
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
    job = _accepted(module, example_inputs, options, source, out_dir)
    steps = _Steps(options, progress)
    started = time.perf_counter()
    steps.begin("export")
    imported = import_torch(
        job.module,
        job.example_inputs,
        max_batch=options.max_batch,
        dynamic=True,
        sign_of_zero=options.sign_of_zero,
    )
    compiled, tuned = _lowered(job, imported, steps)
    compiled.report.log()
    check_schedules(compiled.schedules, strict=options.strict_schedules)
    if options.require_binary:
        require_binary(compiled.report.layers, options.allow_float)
    with staged(out_dir) as stage:
        form = _generated(job, imported, compiled, stage)
        seconds = time.perf_counter() - started
        manifest = build_manifest(
            stage, compiled, tuned, form, job.target, options, job.source, seconds
        )
        manifests.write(stage, manifest)
        checked = Checked()
        if options.check:
            steps.begin(CHECK)
            checked = check_compiled(
                stage, job.module, job.example_inputs, imported, manifest, job.samples
            )
        options_and_check = {**manifest.options, **checked.described()}
        # Last, so that the check ran whole batches in one pass, as a program in C may.
        at_once = _images_at_once(form, job.target, options) if job.apart else None
        final = replace(manifest, options=options_and_check, images_at_once=at_once)
        manifests.write(stage, final)
    return Artefact(out_dir, compiled.report)


@dataclass(frozen=True)
class _Job:
    """What is compiled, once all is refused that can be before any work is done.

    Attributes:
        module: takes pixels where the artefact does.
        example_inputs: one tensor per input.
        options: as they were given.
        target: of the options.
        source: where the module comes from.
        linker: for the target.
        samples: what int8 layers are calibrated with, an array per input; empty without.
        apart: each image's answer is its own, whatever else is in a batch.
    """

    module: nn.Module
    example_inputs: Sequence[torch.Tensor]
    options: CompileOptions
    target: InstaTarget
    source: Source
    linker: Linker
    samples: Sequence[Any]
    apart: bool


def _accepted(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    options: CompileOptions,
    source: Source | None,
    out_dir: Path,
) -> _Job:
    source = source or Source({"class": type(module).__qualname__})
    target = parse(options.target)
    if source.preprocessing is not None:
        Preprocessing.from_dict(dict(source.preprocessing))
    if options.input == "uint8":
        module, example_inputs = take_bytes(module, example_inputs, source.preprocessing)
    # What code generation would refuse is refused before the minutes it takes to get there.
    check_options(
        target,
        stem=options.stem,
        binary=options.binary,
        storage=options.storage,
        amx_weights=options.amx_weights,
    )
    check_folder(out_dir)
    linker = (plain_c if options.runtime == "c" else relax_vm).require(target, options.name)
    images = samples(options, source.preprocessing, example_inputs)
    apart = check_batch(module, example_inputs, max_batch=options.max_batch, form=options.runtime)
    return _Job(module, example_inputs, options, target, source, linker, images, apart)


class _Steps:
    """The steps of a compilation, reported as they begin."""

    def __init__(self, options: CompileOptions, progress: Progress | None) -> None:
        self._names = ["export", *PHASES, "generate code", *([CHECK] if options.check else [])]
        self._progress = progress

    def begin(self, step: str) -> None:
        """Report that a step begins."""
        if self._progress is not None:
            self._progress(step, self._names.index(step) + 1, len(self._names))

    def begin_behind(self, phase: int) -> None:
        """Report the step behind a phase of the pipeline, by its number."""
        self.begin(self._names[phase + 2])


def _lowered(job: _Job, imported: Imported, steps: _Steps) -> tuple[Compiled, Lookup]:
    """The scheduled module, and the tuning records that chose its schedules."""
    options = job.options
    verify = _verifier(job.module, job.example_inputs, options, job.target)
    tuned = Lookup()

    def after_phase(number: int, name: str, mod: tvm.IRModule) -> None:
        steps.begin_behind(number)
        if verify is not None:
            verify(number, name, mod)

    def choose(mod: tvm.IRModule) -> Mapping[str, Tiles]:
        nonlocal tuned
        tuned = look_up(mod, job.target, options.log_dir)
        return tuned.parameters

    context = Context(
        job.target,
        batch=1 if options.runtime == "c" else None,
        float_dtype=options.stem,
        storage=options.storage,
        samples=job.samples,
        binary=options.binary,
        amx_weights=options.amx_weights,
        choose_tiles=choose,
    )
    steps.begin(PHASES[0])
    context = replace(context, measured=measured_figures(imported, context, options.log_dir))
    compiled = run_pipeline(
        imported,
        context,
        dump_ir=options.dump_ir,
        after_phase=after_phase,
        verify_ir=options.verify_stages,
    )
    return compiled, tuned


def _generated(
    job: _Job, imported: Imported, compiled: Compiled, stage: Path
) -> plain_c.CForm | relax_vm.VmForm:
    """Write the library into `stage`."""
    generate = plain_c.c_form if job.options.runtime == "c" else relax_vm.vm_form
    return generate(
        compiled.mod,
        job.target,
        stage,
        job.options.name,
        linker=job.linker,
        parts=[(output.name, output.shape) for output in imported.outputs],
        profile=job.options.profile,
    )


def _images_at_once(
    form: plain_c.CForm | relax_vm.VmForm, target: InstaTarget, options: CompileOptions
) -> int | None:
    """For the manifest; None where a run takes one image, or a device all of them."""
    if isinstance(form, plain_c.CForm) or back_end(target.tvm).device_code:
        return None
    return images_at_once(form.program, options.max_batch)


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
