"""`--stem int8|bf16` in AMX tiles: whole networks, against vectors and against PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import tvm_insta
from tests.amx.test_networks import RUN, emulated
from tvm_insta import nn as nn_insta
from tvm_insta import runtime
from tvm_insta.validate import validate

SEED = 6
NEEDS = {"int8": {"amx-int8", "amx-tile"}, "bf16": {"amx-bf16", "amx-tile"}}
# The same processor without tiles; --binary popcount leaves tiles to the float layers.
VECTORS = "llvm -mcpu=native -mattr=-amx-tile"


class Net(nn.Module):
    """A 7x7 stem, a binary block with a 1x1 shortcut, and a classifier that tiles do not pay for.

    Bits of the stem are packed in its kernel, or are those of an instance's own thresholds.
    """

    def __init__(self, instance: bool) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.threshold = nn_insta.InstaThreshold(64) if instance else None
        self.binary = nn_insta.BinaryConv2d(64, 32, 1)
        self.shortcut = nn.Conv2d(64, 32, 1, bias=False)
        self.classifier = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        bits = torch.where(x >= 0.1, 1.0, -1.0) if self.threshold is None else self.threshold(x)
        y = self.binary(bits) * 0.05 + self.shortcut(x)
        return self.classifier(y.mean(dim=(2, 3)))


def images(count):
    return np.random.default_rng(SEED).standard_normal((count, 3, 24, 24)).astype(np.float32)


def compiled(stem, target, instance=False, **options):
    calibrate = {"calibrate": "random"} if stem == "int8" else {}
    example = torch.zeros(1, 3, 24, 24)
    options = {"binary": "popcount", "max_batch": 4, **calibrate, **options}
    return tvm_insta.build(Net(instance).eval(), example, target, stem=stem, **options)


def rules(artefact):
    """The rule of each layer's last kernel, by its name."""
    manifest = artefact.manifest
    return {
        layer.name: manifest.kernels_of(layer)[-1].schedule.rule
        for layer in manifest.layers
        if layer.kind == "float"
    }


@pytest.mark.parametrize(
    ("instance", "storage"),
    [(False, "fp32"), (True, "fp32"), (True, "fp16")],
    ids=["constant", "instance", "fp16"],
)
def test_int8_in_tiles_gives_the_bytes_of_vectors(tiles, target, instance, storage):
    tiled, vectors = (
        compiled("int8", t, instance, storage=storage) for t in (target.text, VECTORS)
    )
    assert [rules(tiled)[name] for name in ("stem", "shortcut")] == ["insta_fconv_tiles"] * 2
    assert [rules(vectors)[name] for name in ("stem", "shortcut")] == ["insta_fconv"] * 2
    notes = {layer.name: layer.notes for layer in tiled.manifest.layers}
    assert {"computed in int8", "int8 in AMX tiles (by cost model)"} <= set(notes["stem"])
    assert not any("tiles" in note for layer in vectors.manifest.layers for note in layer.notes)
    assert set(tiled.manifest.needs) - set(vectors.manifest.needs) == NEEDS["int8"]
    x, before = images(3), tiles.count("products")
    assert tiled(x).tobytes() == vectors(x).tobytes(), SEED
    assert before is None or tiles.count("products") > before


def test_bfloat16_in_tiles_is_valid(tiles, target):
    artefact = compiled("bf16", target.text)
    assert NEEDS["bf16"] <= set(artefact.manifest.needs)
    found = rules(artefact)
    assert [found[name] for name in ("stem", "shortcut")] == ["insta_fconv_tiles"] * 2
    notes = {layer.name: layer.notes for layer in artefact.manifest.layers}
    assert "bf16 in AMX tiles (by cost model)" in notes["shortcut"]
    assert any(note.startswith("stays in float32") for note in notes["classifier"])
    findings = validate(artefact.load(), Net(instance=False).eval(), [torch.from_numpy(images(3))])
    assert findings.stem == "bf16" and findings.verdict == "valid" and findings.failures() == []
    assert sum(site.wrong_bits for site in findings.sites) == 0
    # An image's result does not depend on those beside it, nor on threads.
    x = images(3)
    whole = artefact(x)
    assert artefact(x[1:2]).tobytes() == whole[1:2].tobytes()


@pytest.mark.parametrize(
    ("stem", "instance", "storage"),
    [("bf16", False, "fp32"), ("int8", False, "fp16"), ("bf16", True, "fp16")],
)
def test_bytes_behind_a_stem_in_tiles(tiles, target, stem, instance, storage):
    """The stem's own kernel writes them, or one that reads float16; the bits are those of words."""
    packed, written = (
        compiled(stem, target.text, instance, storage=storage, binary=binary)
        for binary in ("popcount", "amx")
    )
    (writer,) = [k for k in written.manifest.kernels if "insta.threshold_signs" in k.operators]
    assert ("insta.conv2d_tiles" in writer.operators) is not instance
    assert writer.schedule.rule == ("insta_pack" if instance else "insta_fconv_tiles")
    x = images(3)
    assert written(x).tobytes() == packed(x).tobytes(), SEED


@pytest.fixture(scope="module")
def forms(tmp_path_factory, target):
    """Both forms with both kinds of numbers: made before the processor seems to have AMX."""
    folder = tmp_path_factory.mktemp("forms")
    for stem in NEEDS:
        for form in ("vm", "c"):
            compiled(stem, target.text, runtime=form, out_dir=folder / f"{form}-{stem}")
    return folder


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("stem", NEEDS)
def test_both_forms_give_the_same_bytes(tmp_path, forms, tiles, library, stem):
    """The plain-C form in a process of its own, which asks for the permission; 1 and 2 threads."""
    x = images(2)
    np.save(tmp_path / "x.npy", x)
    env = {**os.environ, "LD_PRELOAD": str(library), "AMX_EMULATE_REPORT": "1"}
    command = [sys.executable, "-c", RUN, tmp_path / "x.npy", forms / f"c-{stem}"]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"permitted 1" in done.stderr and b"products 0" not in done.stderr
    assert done.stdout == runtime.load(forms / f"vm-{stem}")(x).tobytes() * 2, SEED
