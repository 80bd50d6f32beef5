"""Whole networks for `benchmarks.arm`: the plain-C form under QEMU, and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

import tvm_insta
from benchmarks.arm_figures import Model
from benchmarks.arm_qemu import Core, count_calls, link_static
from tvm_insta import nn

SHAPE = (1, 3, 224, 224)
CLASSES = 1000

_MAIN = f"""#include "model.h"
#include <stdint.h>
#include <stdlib.h>
static float input[{SHAPE[1] * SHAPE[2] * SHAPE[3]}], output[{CLASSES}];
int main(int argc, char **argv) {{
  uint32_t state = 1;
  for (size_t i = 0; i < sizeof input / sizeof *input; i++) {{
    state = state * 1664525u + 1013904223u;
    input[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
  }}
  if (model_init(NULL) != MODEL_OK) return 1;
  for (int i = argc > 1 ? atoi(argv[1]) : 1; i > 0; i--)
    if (model_run(input, output, 1) != MODEL_OK) return 2;
  return 0;
}}
"""


def measure_models(core: Core, folder: Path, stem: str = "fp32", storage: str = "fp32") -> Model:
    """Count the instructions of ResNet-18 `insta`, one image.

    Args:
        core: what to compile for and to emulate.
        folder: for the artefact and the program.
        stem: numbers of the float layers, "fp32" or "int8".
        storage: how images are stored between kernels, "fp32" or "fp16".

    Raises:
        InstaError: there is no cross compiler or no emulator, or the core cannot have the stem.
    """
    torch.manual_seed(0)
    network = nn.create("resnet18", "insta")
    out = folder / f"{core.name}-resnet18"
    tvm_insta.build(
        network,
        torch.zeros(SHAPE),
        target=core.target,
        runtime="c",
        out_dir=out,
        stem=stem,
        storage=storage,
        calibrate="random" if stem == "int8" else None,
    )
    source, program = folder / "model_main.c", folder / f"{core.name}-model"
    source.write_text(_MAIN)
    link_static(core, [source, out / "model.a"], program, f"-I{out}")
    name = f"ResNet-18 insta (plain-C form, {stem} stem, {storage} storage)"
    return Model(core.name, name, count_calls(core, program, 1))


def measure_onnx_runtime(root: Path, cores: Sequence[Core], folder: Path) -> list[Model]:
    """Count ONNX Runtime's float32 and int8 ResNet-18 on the 64-bit cores."""
    from benchmarks.arm_onnx import measure

    return measure(root, [core for core in cores if core.parsed.arch == "aarch64"], folder)
