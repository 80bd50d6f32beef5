"""The artefact and `runner.c` as one program of the target."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tvm_insta.runtime.arrays import output_shape
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.manifest_checks import image_bytes
from tvm_insta.target.toolchain import Linker

_RUNNER = Path(__file__).with_name("runner.c")
_FUNCTIONS = ("init", "set_threads", "set_observer", "missing_feature", "error")


def link(folder: Path, manifest: Manifest, linker: Linker, work: Path) -> Path:
    """Link an artefact with the runner.

    Args:
        folder: of the artefact.
        manifest: of the artefact.
        linker: for its target.
        work: folder that gets the program.

    Raises:
        ToolchainError: the tool chain fails.
    """
    (work / "network.h").write_text(header(manifest), "utf-8")
    program = work / "runner"
    strict = ("-std=c11", "-O2", "-Wall", "-Wextra")
    parts = [_RUNNER, folder / f"{manifest.name}.a"]
    flags = (*strict, f"-I{work}", f"-I{folder}", "-lm", "-pthread")
    linker.link_program(parts, program, *flags, static=True)
    return program


def header(manifest: Manifest) -> str:
    """The text of network.h."""
    name, count = manifest.name, len(manifest.inputs)
    sizes = ", ".join(str(image_bytes(info)) for info in manifest.inputs)
    pointers = ", ".join(f"inputs[{index}]" for index in range(count))
    lines = [
        f'#include "{name}.h"',
        f"#define INPUTS {count}",
        f"#define INPUT_BYTES {{{sizes}}}",
        f"#define OUTPUT_BYTES {output_bytes(manifest)}u",
        f"#define EVENT {name}_event",
        f"#define RUN(inputs, output, batch) {name}_run({pointers}, output, batch)",
        *(f"#define {each.upper()} {name}_{each}" for each in _FUNCTIONS),
    ]
    return "\n".join(lines) + "\n"


def output_bytes(manifest: Manifest) -> int:
    """What one image writes."""
    outputs = manifest.outputs
    return math.prod(output_shape(outputs, 1)) * np.dtype(outputs[0].dtype).itemsize
