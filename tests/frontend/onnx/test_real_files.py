"""Files of other exporters: compiled by the command line, compared with what they must give.

Every ``NAME.onnx`` of the folder TVM_INSTA_ONNX_FILES has a ``NAME.npz`` of inputs ``in:NAME`` and
outputs ``out:NAME``, several images each.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tvm_insta
from tvm_insta.compiler import onnx_model
from tvm_insta.validate import validate

FOLDER = os.environ.get("TVM_INSTA_ONNX_FILES", "")
FILES = sorted(Path(FOLDER).glob("*.onnx")) if FOLDER else []
FORMS = os.environ.get("TVM_INSTA_ONNX_FORMS", "vm").split(",")
ROOT = Path(__file__).parents[3]

PACKED = {
    "bnn_mlp_legacy": 2,  # of the three that are binary, the first reads pixels
    "brevitas_cnv_1w1a_qonnx": 4,
    "brevitas_cnv_1w2a_qonnx_dynamo": 4,
    "brevitas_cnv_2w2a_qcdq": 4,
    "brevitas_relu_1w2a_qonnx": 2,
    "brevitas_relu_4w4a_qcdq": 2,
    "dorefa_1w2a_dynamo": 2,
    "finn_build_dataflow_model": 4,
    "larq_tiny_op17": 4,
    "lsq_1w2a_legacy": 2,
    "reactnet_tiny_legacy": 3,
    "resnet20_insta_digits_legacy": 18,
    "tfc_1w1a": 4,
    "tfc_1w2a": 4,
    "xnornet_tiny_dynamo": 3,
    "zero_one_groups_legacy": 2,
}
"""Layers that must be packed, of the files that are known."""


def test_the_documentation_lists_these_files():
    text = (ROOT / "docs" / "onnx.md").read_text("utf-8")
    listed = text.split("<!-- files -->")[1].split("<!-- end -->")[0]
    rows = re.findall(r"^\| (\w+) \|.*\| (\d+) \|$", listed, re.MULTILINE)
    assert {name: int(count) for name, count in rows} == PACKED


@pytest.mark.slow
@pytest.mark.skipif(not FILES, reason="TVM_INSTA_ONNX_FILES names no folder of real files")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_real_file(path, form, tmp_path):
    folder = tmp_path / "artefact"
    command = [sys.executable, "-m", "tvm_insta.compile", str(path), "-o", str(folder)]
    done = subprocess.run(
        [*command, "--runtime", form],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    module = tvm_insta.load(folder)
    layers = module.manifest.layers
    packed = sum(layer.kind == "binary" for layer in layers)
    assert all(layer.reason for layer in layers if layer.kind != "binary")
    assert packed == PACKED.get(path.stem, packed)
    assert module.manifest.options["checked"] == "passed"

    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        inputs = {n[3:]: arrays[n] for n in arrays.files if n.startswith("in:")}
        expected = [arrays[n] for n in arrays.files if n.startswith("out:")]
    images = [np.asarray(x, np.float32) for x in inputs.values()]
    step = min(module.manifest.max_batch, 4)
    rows = [module(*[x[i : i + step] for x in images]) for i in range(0, len(images[0]), step)]
    rows = [row if isinstance(row, tuple) else (row,) for row in rows]
    for number, theirs in enumerate(expected):
        ours = np.concatenate([row[number] for row in rows])
        assert ours.shape == theirs.shape
        largest = np.abs(theirs).max()
        apart = np.abs(ours.astype(np.float64) - theirs).reshape(len(ours), -1).max(1)
        flipped = int((apart > 1e-5 * largest).sum())
        print(
            f"{path.stem} {form}: {packed} of {len(layers)} layers packed, {flipped} images moved"
        )
        assert flipped == 0, (apart.max(), largest)
        if theirs.ndim == 2 and theirs.shape[1] > 1:
            assert (ours.argmax(1) == theirs.argmax(1)).all()

    # Bit by bit, on the file's own inputs.
    import torch

    network = onnx_model.network(path).module
    findings = validate(module, network, [torch.from_numpy(x[:2]) for x in images])
    assert findings.verdict == "valid", (findings.failures(), findings.not_judged)
