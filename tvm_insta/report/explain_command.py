"""What ``explain``, ``bench --layers`` and ``compile --explain`` do beside reading arguments."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tvm_insta.files import write_output
from tvm_insta.report.compare import compare, compare_lines
from tvm_insta.report.explain_page import compare_page, explain_page
from tvm_insta.report.explain_text import explain_lines
from tvm_insta.report.explanation import explain
from tvm_insta.report.layer_times import LayerTimes, measure_layers, read_times
from tvm_insta.report.rows import Explanation
from tvm_insta.runtime import Module, load
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.inputs import random_inputs


def explained(*artefacts: tuple[Path, Path | None], measure: bool = False) -> list[Explanation]:
    """The explanations of artefacts.

    Args:
        artefacts: the folder of each, and a file of `write_times` or None.
        measure: measure the times now, on one thread, where no file is given.

    Raises:
        ArtefactError: there is no artefact, or it does not run here.
        InputError: the times are not its own, or it has no counters.
    """
    found = []
    for folder, file in artefacts:
        manifest = manifests.read(folder / manifests.FILE_NAME)
        times = None if file is None else read_times(file)
        if times is None and measure:
            times = measured(load(folder, threads=1))
        found.append(explain(manifest, times))
    return found


def measured(
    module: Module, *, batch: int = 1, threads: int = 1, warmup: int = 20, repeat: int = 100
) -> LayerTimes:
    """Time the kernels of a module that was loaded with this number of threads."""
    inputs = random_inputs(module.manifest, batch)
    return measure_layers(module, inputs, warmup=warmup, repeat=repeat, threads=threads)


def told(
    found: Sequence[Explanation], json_file: Path | None, html_file: Path | None
) -> Iterator[str]:
    """Write what is asked for, and yield the text: of one artefact, or of what two differ in.

    Raises:
        ArtefactError: a file cannot be written.
    """
    if len(found) == 1:
        (one,) = found
        yield from explain_lines(one)
        data, page = dataclasses.asdict(one), explain_page
        text = page(one) if html_file is not None else ""
    else:
        changes = compare(*found)
        yield from compare_lines(changes)
        data = dataclasses.asdict(changes)
        text = compare_page(changes) if html_file is not None else ""
    for path, content in ((json_file, json.dumps(data, indent=1) + "\n"), (html_file, text)):
        if path is not None:
            write_output(path, content.encode())
            yield f"wrote {path}"
