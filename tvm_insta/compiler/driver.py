"""PyTorch module in, validated artefact out: the library behind ``python -m tvm_insta.compile``."""

from __future__ import annotations

import dataclasses
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm_insta.target.tvm_versions import check_versions

check_versions()

import torch  # noqa: E402
import tvm  # noqa: E402
from torch import nn  # noqa: E402

from tvm_insta import runtime  # noqa: E402
from tvm_insta.codegen import plain_c, relax_vm  # noqa: E402
from tvm_insta.codegen.images_at_once import images_at_once  # noqa: E402
from tvm_insta.codegen.staging import check_folder, staged  # noqa: E402
from tvm_insta.compiler.kernel_variants import measured_figures  # noqa: E402
from tvm_insta.compiler.manifest_builder import Source, build_manifest  # noqa: E402
from tvm_insta.compiler.model_inputs import samples, take_bytes  # noqa: E402
from tvm_insta.compiler.option_checks import check_options  # noqa: E402
from tvm_insta.compiler.options import CompileOptions  # noqa: E402
from tvm_insta.compiler.schedule_check import check_schedules  # noqa: E402
from tvm_insta.compiler.self_check import Checked, check_compiled  # noqa: E402
from tvm_insta.errors import InstaError  # noqa: E402
from tvm_insta.frontend import exclusive, import_torch  # noqa: E402
from tvm_insta.passes.context import Context  # noqa: E402
from tvm_insta.passes.pipeline import PHASES, AfterPhase, run_pipeline  # noqa: E402
from tvm_insta.passes.report import Report  # noqa: E402
from tvm_insta.report.explain_command import explained  # noqa: E402
from tvm_insta.report.require import require_binary  # noqa: E402
from tvm_insta.report.rows import Explanation  # noqa: E402
from tvm_insta.runtime import manifest as manifests  # noqa: E402
from tvm_insta.runtime.preprocess import Preprocessing  # noqa: E402
from tvm_insta.schedules import Tiles, back_end  # noqa: E402
from tvm_insta.target import InstaTarget, parse  # noqa: E402
from tvm_insta.tuning.lookup import Lookup, look_up  # noqa: E402
from tvm_insta.validate.batch import check_batch  # noqa: E402

CHECK = "check against PyTorch"

Progress = Callable[[str, int, int], None]
"""Called with the name of the step that begins, its number and the number of steps."""


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

    def explain(self, *, measure: bool = False) -> Explanation:
        """What became of every layer; ``print`` it, or see `tvm_insta.report` for JSON and HTML.

        Args:
            measure: time the kernels now, on one thread; the artefact needs ``profile=True``.

        Raises:
            InputError: the kernels are to be timed and have no counters.
        """
        return explained((self.path, None), measure=measure)[0]

    def __call__(self, *inputs: Any) -> Any:
        """Run the network on numpy arrays or DLPack tensors; see `runtime.Module`."""
        return self.load()(*inputs)


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
    folder = Path(out_dir) if out_dir is not None else None
    keep = None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="tvm_insta-", ignore_cleanup_errors=True)
        folder, keep = Path(temporary.name), temporary
    known = dict(preprocessing or {})
    classes = known.pop("classes", None)
    source = Source(
        dict(description or {"class": type(module).__qualname__}),
        known or None,
        tuple(classes) if classes else None,
    )
    artefact = compile_module(module, example_inputs, chosen, folder, source=source)
    artefact._keep = keep
    if keep is not None:
        weakref.finalize(artefact, keep.cleanup)
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
    steps = ["export", *PHASES, "generate code", *([CHECK] if options.check else [])]
    started = time.perf_counter()

    def begin(step: str) -> None:
        if progress is not None:
            progress(step, steps.index(step) + 1, len(steps))

    begin("export")
    imported = import_torch(
        module,
        example_inputs,
        max_batch=options.max_batch,
        dynamic=True,
        sign_of_zero=options.sign_of_zero,
    )
    verify = _verifier(module, example_inputs, options, target)

    def after_phase(number: int, name: str, mod: tvm.IRModule) -> None:
        begin(steps[number + 2])
        if verify is not None:
            verify(number, name, mod)

    tuned = Lookup()

    def choose(mod: tvm.IRModule) -> Mapping[str, Tiles]:
        nonlocal tuned
        tuned = look_up(mod, target, options.log_dir)
        return tuned.parameters

    context = Context(
        target,
        batch=1 if options.runtime == "c" else None,
        float_dtype=options.stem,
        storage=options.storage,
        samples=images,
        binary=options.binary,
        amx_weights=options.amx_weights,
        choose_tiles=choose,
    )
    begin(PHASES[0])
    context = replace(context, measured=measured_figures(imported, context, options.log_dir))
    compiled = run_pipeline(
        imported,
        context,
        dump_ir=options.dump_ir,
        after_phase=after_phase,
        verify_ir=options.verify_stages,
    )
    compiled.report.log()
    check_schedules(compiled.schedules, strict=options.strict_schedules)
    if options.require_binary:
        require_binary(compiled.report.layers, options.allow_float)
    with staged(out_dir) as stage:
        generate = plain_c.c_form if options.runtime == "c" else relax_vm.vm_form
        parts = [(output.name, output.shape) for output in imported.outputs]
        form = generate(
            compiled.mod,
            target,
            stage,
            options.name,
            linker=linker,
            parts=parts,
            profile=options.profile,
        )
        seconds = time.perf_counter() - started
        manifest = build_manifest(stage, compiled, tuned, form, target, options, source, seconds)
        manifests.write(stage, manifest)
        checked = Checked()
        if options.check:
            begin(CHECK)
            checked = check_compiled(stage, module, example_inputs, imported, manifest, images)
        options_and_check = {**manifest.options, **checked.described()}
        final = replace(
            manifest,
            options=options_and_check,
            # Last, so that the check ran whole batches in one pass, as a program in C may.
            images_at_once=_images_at_once(form, target, options) if apart else None,
        )
        manifests.write(stage, final)
    return Artefact(out_dir, compiled.report)


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
