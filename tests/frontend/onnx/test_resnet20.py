"""ResNet-20 in three variants: written, run by ONNX Runtime, read again, packed to the same bytes.

Images of other sets: TVM_INSTA_CIFAR names a folder of images of 32x32 pixels.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.frontend.onnx.models import by_runtime
from tvm_insta import nn
from tvm_insta.codegen.program import extract
from tvm_insta.compiler import onnx_model
from tvm_insta.frontend import import_torch
from tvm_insta.frontend.onnx.write import export
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.runtime.preprocess import load_images
from tvm_insta.target import parse

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "test"
CIFAR = os.environ.get("TVM_INSTA_CIFAR", "")
SUFFIXES = (".png", ".jpg", ".jpeg")
VARIANTS = ("baseline", "insta", "insta_plus")


def network(variant):
    """The trained network, or one that is fit to measure."""
    checkpoint = "digits" if variant == "insta" else None
    return nn.create("resnet20", variant, checkpoint=checkpoint)


def folders():
    """Folders of images with how their numbers are made, the digits always."""
    digits = nn.preprocessing("digits")
    digits.pop("classes")
    yield DIGITS, digits, 9
    if CIFAR:
        how = {"resize": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.25] * 3}
        yield Path(CIFAR), how, 64


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_classes_of_onnx_runtime(variant):
    module = network(variant)
    for folder, how, every in folders():
        files = sorted(each for each in folder.rglob("*") if each.suffix in SUFFIXES)
        files = files[:: every if folder == DIGITS else 1][:640]
        batch = load_images(files, how)
        model = export(module, [torch.from_numpy(batch[:1])])
        with torch.no_grad():
            expected = module(torch.from_numpy(batch)).numpy()
        found = by_runtime(model, {model.graph.input[0].name: batch})[0]
        assert (found.argmax(1) == expected.argmax(1)).all()
        apart = np.abs(found - expected).max(1) > 1e-4 * np.abs(expected).max()
        # An activation within rounding of its threshold turns one bit round, and all behind it.
        allowed = 0 if folder == DIGITS else len(batch) // 20
        assert apart.sum() <= allowed, f"{int(apart.sum())} of {len(batch)} images moved"


def packed(imported):
    """What the compiler makes of the network: words of packed weights, and what packs the bits."""
    fused = run_pipeline(
        imported, Context(parse("llvm -mtriple=x86_64-linux-gnu"), batch=1), last="fuse"
    )
    words = [c.tobytes() for c in extract(fused.mod).constants if c.dtype == np.uint32]
    kinds = [(layer.kind, layer.source.macs) for layer in fused.report.layers]
    return words, kinds, len(fused.report.packs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "qonnx"), [*((each, False) for each in VARIANTS), ("insta", True)]
)
def test_the_same_packed_bytes(variant, qonnx):
    """The words of the weights, layer by layer, are those of the way through PyTorch."""
    module, example = network(variant), torch.zeros(1, 3, 32, 32)
    model = export(module, [example], qonnx=qonnx)
    assert model.ByteSize() < (2_000_000 if qonnx else 500_000)
    read = onnx_model.network(model)
    direct = packed(import_torch(module, [example], max_batch=4, dynamic=True))
    written = packed(import_torch(read.module, read.examples, max_batch=4, dynamic=True))
    assert len(direct[0]) >= 18
    assert direct == written
