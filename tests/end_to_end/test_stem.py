"""`--stem bf16|int8`: the digits network in narrower numbers, its calibration, and its refusals."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tvm_insta
from tvm_insta import compile as compile_command
from tvm_insta import nn as nn_insta
from tvm_insta.errors import InstaError
from tvm_insta.runtime.preprocess import load_images
from tvm_insta.target import parse
from tvm_insta.validate import validate

FEATURE = {"bf16": "avx512bf16", "int8": "avx512vnni"}
# With AMX layers this small stay in float32, or go to tiles: tests/amx has those.
HERE = "llvm -mcpu=native -mattr=-amx-tile" if "amx-tile" in parse("llvm").features else "llvm"
PIXELS = {"mode": "RGB", "layout": "NCHW", "size": [8, 8], "resize": "exact"}


class Stem(nn.Module):
    """A float stem, a binary convolution, and a float classifier."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.classifier = nn.Linear(32, 16)
        self.weight = nn.Parameter(
            torch.randint(0, 2, (32, 32, 3, 3), generator=generator).float() * 2 - 1
        )
        with torch.no_grad():
            for parameter in (*self.stem.parameters(), *self.classifier.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, x):
        bits = torch.where(self.stem(x) >= 0.1, 1.0, -1.0)
        y = nn.functional.conv2d(bits, self.weight, padding=1) * 0.05
        return self.classifier(y.mean(dim=(2, 3)))


def build(stem, **options):
    if FEATURE[stem] not in parse("llvm").features:
        pytest.skip(f"this CPU has no {FEATURE[stem]}")
    return tvm_insta.build(Stem().eval(), torch.zeros(1, 3, 8, 8), HERE, stem=stem, **options)


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize("stem", FEATURE)
def test_close_to_pytorch_with_exact_bits(stem, runtime):
    calibrate = {"calibrate": "random"} if stem == "int8" else {}
    artefact = build(stem, runtime=runtime, **calibrate)
    layers = {layer.name: layer for layer in artefact.manifest.layers}
    assert {layer.compute_dtype for layer in layers.values()} == {stem, ""}
    assert f"computed in {stem}" in layers["stem"].notes
    assert f"computed in {stem}" in layers["classifier"].notes
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    findings = validate(artefact.load(), Stem().eval(), [x])
    assert findings.stem == stem and findings.failures() == []
    assert sum(site.wrong_bits for site in findings.sites) == 0
    # bfloat16 keeps 8 bits, an 8-bit code 7 of the largest: 27 products of each in the stem
    # The kernel compares the stem's sum without its bias, which PyTorch has not: bits are told.
    site = findings.sites[0]
    assert findings.verdict == "valid" and site.judged == 6
    assert 0 < site.flips < {"bf16": 0.01, "int8": 0.04}[stem] * site.bits
    # and of the classifier's inputs what lies beyond those of the 8 calibration images is clipped.
    assert findings.logits_forced < {"bf16": 0.02, "int8": 0.15}[stem]


@pytest.mark.parametrize("stem", FEATURE)
def test_both_forms_give_the_same_bytes(stem):
    calibrate = {"calibrate": "random"} if stem == "int8" else {}
    x = np.random.default_rng(5).standard_normal((2, 3, 8, 8), np.float32)
    vm, c = (build(stem, runtime=runtime, **calibrate)(x) for runtime in ("vm", "c"))
    assert vm.tobytes() == c.tobytes()


def test_two_narrow_layers_of_one_kind_share_no_name():
    """Each bf16 kernel brings the same LLVM function: linking must not mix them up."""
    artefact = build("bf16", runtime="c")
    names = [kernel.symbol for kernel in artefact.manifest.kernels]
    assert sum("conv2d_narrow" in name for name in names) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stem", "bf16", "--target", "avx2"], ["avx512bf16", "stem fp32"]),
        (
            ["--stem", "int8", "--calibrate", "random", "--target", "rpi4"],
            ["rpi4 is neither", "avx512vnni", "aarch64 with dotprod", "stem fp32"],
        ),
        (["--stem", "int8", "--calibrate", "random", "--target", "armv7"], ["dotprod"]),
        (["--stem", "bf16", "--target", "cortex-a76"], ["x86-64 with avx512bf16", "stem fp32"]),
        (["--stem", "int8"], ["sample images"]),
        (["--stem", "bf16", "--calibrate", "x"], ["calibrate"]),
        (["--stem", "bf16", "--verify-stages"], ["verify_stages"]),
        (["--stem", "int8", "--calibrate", "no/such/folder", "--target", "avx512"], ["no/such"]),
    ],
    ids=" ".join,
)
def test_refusals(arguments, words, capsys, tmp_path):
    code = compile_command.main([*arguments, "-o", str(tmp_path / "out")])
    text = capsys.readouterr().err
    assert code == 2 and all(word in text for word in words), text
    assert "Traceback" not in text and not (tmp_path / "out").exists()


def test_ranges_come_from_the_images():
    """A network whose input is ten times as large in one image gets codes for that image."""
    from tvm_insta.frontend import import_torch
    from tvm_insta.passes.context import Context
    from tvm_insta.passes.pipeline import run_pipeline

    imported = import_torch(Stem().eval(), [torch.zeros(1, 3, 8, 8)], max_batch=4, dynamic=True)
    samples = np.zeros((2, 3, 8, 8), np.float32)
    samples[1, 2, 3, 4] = -10.0
    compiled = run_pipeline(
        imported, Context(parse("avx512"), float_dtype="int8", samples=[samples]), last="lower"
    )
    scales = [
        float(binding.value.attrs["scale"])
        for block in compiled.mod["main"].body.blocks
        for binding in block.bindings
        if "conv2d_narrow" in str(getattr(binding.value, "op", ""))
    ]
    assert scales[0] == pytest.approx(127 / 10)


@pytest.mark.slow
def test_ranges_come_from_every_class(tmp_path):
    """``--calibrate`` takes a folder of class folders, and looks at all of them: here at 64 of 120
    images, and only those of the last class are bright."""
    for number in range(12):
        folder = tmp_path / "images" / f"class{number:02}"
        folder.mkdir(parents=True)
        image = Image.new("L", (8, 8), 255 if number == 11 else 127)
        for copy in range(10):
            image.save(folder / f"{copy}.png")
    how = nn_insta.preprocessing("digits")
    how.pop("classes")
    bright, grey = (
        np.abs(load_images([tmp_path / "images" / name / "0.png"], how)).max()
        for name in ("class11", "class00")
    )
    assert bright > 2 * grey
    calibrate = ["--checkpoint", "digits", "--target", "avx512"]
    calibrate += ["--stem", "int8", "--calibrate", str(tmp_path / "images")]
    dump = ["--dump-ir", str(tmp_path / "ir"), "--runtime", "c", "-o", str(tmp_path / "out")]
    assert compile_command.main([*calibrate, *dump]) == 0
    text = (tmp_path / "ir" / "5_lower.py").read_text()
    scales = re.findall(r"conv2d_narrow\(.*scale=([0-9.e+-]+)", text)
    assert float(scales[0]) == pytest.approx(127 / bright), scales


def test_nothing_of_it_in_a_plain_build():
    with pytest.raises(InstaError, match="must be one of fp32, bf16, int8"):
        tvm_insta.build(Stem().eval(), torch.zeros(1, 3, 8, 8), stem="fp16")


class Product(nn.Module):
    """A dense layer in another spelling, one of whose inputs has weights 50 times the others'."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        generator = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(1024, 32, generator=generator))
        self.b = nn.Parameter(torch.randn(32, generator=generator))
        self.w.data[7] *= 50

    def forward(self, x):
        return self.spelling(self, x)


@pytest.mark.parametrize(
    "spelling",
    [lambda m, x: torch.mm(x, m.w), lambda m, x: torch.addmm(m.b, x, m.w)],
    ids=["mm", "addmm"],
)
@pytest.mark.parametrize("stem", FEATURE)
def test_products_with_the_weight_as_they_stand(stem, spelling):
    """Its scales are those of output channels: by others' a right artefact would be refused."""
    if FEATURE[stem] not in parse("llvm").features:
        pytest.skip(f"this CPU has no {FEATURE[stem]}")
    calibrate = {"calibrate": "random"} if stem == "int8" else {}
    module = Product(spelling).eval()
    artefact = tvm_insta.build(module, torch.zeros(1, 1024), HERE, stem=stem, **calibrate)
    (layer,) = artefact.manifest.layers
    assert layer.compute_dtype == stem and f"computed in {stem}" in layer.notes
    assert artefact.manifest.options["checked"] == "passed"  # on images of the calibration
    x = torch.randn(3, 1024, generator=torch.Generator().manual_seed(1))
    assert validate(artefact.load(), module, [x]).verdict == "valid"
