"""The manifest of a compiled model: what it is, where it runs, and what became of each layer."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import tvm

from tvm_insta.codegen.kernels import kernel_table
from tvm_insta.codegen.plain_c import CForm
from tvm_insta.codegen.program import Program
from tvm_insta.codegen.relax_vm import VmForm
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.passes import report
from tvm_insta.passes.labels import PACKS
from tvm_insta.passes.pipeline import Compiled
from tvm_insta.runtime import manifest as manifests
from tvm_insta.schedules import ScheduleRecord, back_end
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.lookup import DEFAULT, STALE, Lookup


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


def build_manifest(
    folder: Path,
    compiled: Compiled,
    tuned: Lookup,
    form: CForm | VmForm,
    target: InstaTarget,
    options: CompileOptions,
    source: Source,
    seconds: float,
) -> manifests.Manifest:
    """The manifest of what was compiled.

    Args:
        folder: where the artefact's files are.
        compiled: what the pipeline made.
        tuned: what the logs gave it.
        form: the generated code.
        target: of the compilation.
        options: of the compilation.
        source: where the model came from.
        seconds: what compiling took.
    """
    program = form.plan.program if isinstance(form, CForm) else form.program
    table = kernel_table(program, batched=isinstance(form, CForm))
    schedules = {
        record.function: manifests.Schedule(
            record.rule, _state(record, tuned), record.reason or None
        )
        for record in compiled.schedules
    }
    return manifests.Manifest(
        name=options.name,
        form=options.runtime,
        library=f"{options.name}.so" if target.arch != "wasm32" else f"{options.name}.a",
        files=manifests.describe_files(folder, form.files),
        target_text=target.text,
        target=target.canonical,
        machine=platform.machine() if target.host else target.arch,
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
        kernels=tuple(
            dataclasses.replace(kernel, schedule=schedules.get(kernel.symbol))
            for kernel in table.kernels
        ),
        constants=table.constants,
        features=tuple(sorted(target.features)),
        family=back_end(target.tvm).family.name,
        layers=_layers(compiled, program),
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
    calls = [k.index for k in kernels if PACKS & set(k.operators)]
    found = []
    for pack in compiled.report.packs:
        fields = dataclasses.asdict(pack)
        site = compiled.sites.get(fields.pop("site"))
        found.append(
            manifests.Binarisation(
                calls[fields.pop("kernel")],
                **fields,
                site=None if site is None else manifests.Site(**dataclasses.asdict(site)),
            )
        )
    return tuple(found)


def _state(record: ScheduleRecord, tuned: Lookup) -> str:
    """Whether the kernel's schedule is tuned, and to what is there now."""
    wish = tuned.parameters.get(record.function)
    if wish is not None:
        return tuned.states[record.function] if record.tiles == wish else STALE
    return tuned.states.get(record.function, DEFAULT)


def _layers(compiled: Compiled, program: Program) -> tuple[manifests.Layer, ...]:
    calls: dict[str, list[int]] = {}
    for index, call in enumerate(program.calls):
        for name in call.layers:
            calls.setdefault(name, []).append(index)
    return tuple(
        manifests.Layer(
            name=layer.name,
            op=layer.source.op,
            kind=layer.kind,
            shape=layer.source.output_shape,
            weight=layer.source.weight_shape,
            bits=layer.source.bits,
            macs=layer.source.macs,
            reason=layer.reason or None,
            reasons=tuple(why.code.value for why in layer.source.why_float),
            line=layer.source.line,
            weight_bits=layer.source.weight_bits,
            planes=layer.source.planes,
            notes=layer.notes,
            compute_dtype=_compute_dtype(layer),
            calls=tuple(calls.get(layer.name, ())),
        )
        for layer in compiled.report.layers
    )


def _compute_dtype(layer: report.Layer) -> str:
    """Of what is float in a layer, "" for a binary layer of which nothing is in narrow numbers."""
    return layer.compute_dtype if layer.kind == "float" or layer.compute_dtype != "fp32" else ""
