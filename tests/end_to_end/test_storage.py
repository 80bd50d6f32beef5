"""`--storage fp16`: both forms against PyTorch and against what they stored, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tvm_insta
from tests.passes.networks import tiny_resnet
from tvm_insta import compile as compile_command
from tvm_insta import runtime
from tvm_insta.errors import InstaError
from tvm_insta.ops import reference
from tvm_insta.report import findings_lines
from tvm_insta.target import parse
from tvm_insta.validate import validate

X = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(4))
STEM_BYTES = 16 * 16 * 32 * 4
"""Of the largest tensor, the stem's result, in float32."""


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """Both forms of a small network, compiled for this machine."""
    if "f16c" not in parse("llvm").features:
        pytest.skip("this CPU has no f16c")
    folder = tmp_path_factory.mktemp("half")
    for form in ("vm", "c"):
        tvm_insta.build(tiny_resnet(), X[:1], runtime=form, storage="fp16", out_dir=folder / form)
    return folder


@pytest.mark.parametrize("form", ["vm", "c"])
def test_bits_are_exact_and_the_change_is_reported(artefacts, form):
    module = runtime.load(artefacts / form)
    findings = validate(module, tiny_resnet(), [X])
    assert findings.storage == "fp16" and findings.failures() == []
    assert findings.sites and sum(site.wrong_bits for site in findings.sites) == 0
    # float16 keeps 11 bits, and an activation is some times its root mean square: 2**-12 of that,
    # in each of the few tensors that were added up. Float32 alone stays below 5e-5.
    assert 5e-5 < max(site.deviation for site in findings.sites) < 2**-12 * 20 * 3
    assert any(
        "storage fp16: limits are those" in t for t in findings_lines(findings, per_layer=False)
    )
    assert module.manifest.options["storage"] == "fp16"


@pytest.mark.parametrize("form", ["vm", "c"])
def test_moments_are_those_of_what_is_stored(artefacts, form):
    checked, fma = 0, "fma" in parse("llvm").features
    for entry in runtime.load(artefacts / form).trace(X.numpy()[:1]):
        images = [out for out in entry.outputs if out.dtype == np.float16]
        rows = [out for out in entry.outputs if out.dtype == np.float32 and out.ndim == 4]
        if images and rows:
            stored = images[0].astype(np.float32)
            assert np.array_equal(rows[0], reference.moment_rows(stored, fused=fma)), entry.symbol
            checked += 1
    assert checked >= 2


def test_same_bytes_in_both_forms_on_any_thread_at_any_position(artefacts):
    x = X.numpy()
    expected = runtime.load(artefacts / "vm", threads=1)(x)
    for form in ("vm", "c"):
        for threads in (1, 2, 3):
            module = runtime.load(artefacts / form, threads=threads)
            assert module(x).tobytes() == expected.tobytes()
            assert module(x[::-1].copy())[::-1].tobytes() == expected.tobytes()


def test_images_take_half_the_memory(artefacts):
    memory = runtime.load(artefacts / "c").manifest.memory
    assert STEM_BYTES / 2 < memory.arena < STEM_BYTES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "armv7"], ["armv7 is neither x86-64 with f16c nor aarch64", "storage fp32"]),
        (["--target", "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64"], ["f16c", "storage fp32"]),
        (["--target", "llvm -mtriple=riscv64"], ["aarch64"]),
        (["--verify-stages"], ["verify_stages", "storage 'fp16'"]),
    ],
    ids=" ".join,
)
def test_refusals(arguments, words, capsys, tmp_path):
    command = ["--storage", "fp16", *arguments, "--runtime", "c", "-o", str(tmp_path / "out")]
    assert compile_command.main(command) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in words), text
    assert "Traceback" not in text and not (tmp_path / "out").exists()


def test_a_wrong_name_is_refused():
    with pytest.raises(InstaError, match="must be one of fp32, fp16"):
        tvm_insta.build(tiny_resnet(), X[:1], storage="bf16")
