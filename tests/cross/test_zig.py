"""Without any C compiler on the PATH: the ziglang wheel links for another machine, or is named."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from tests.cross import small_network
from tests.cross.machines import GENERIC_ARM64
from tvm_insta import compile as command
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.target import toolchain


@pytest.fixture
def empty_path(monkeypatch, tmp_path):
    """A PATH without any program; returns the monkeypatch that undoes it."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    return monkeypatch


@pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason='the ziglang wheel is not installed (pip install "tvm-insta[cross]")',
)
@pytest.mark.qemu
@pytest.mark.parametrize("form", ["vm", "c"])
def test_zig_links_for_aarch64(form, empty_path, tmp_path):
    folder = tmp_path / "out"
    target = ["--target", "llvm -mtriple=aarch64", "--runtime", form]
    assert command.main([*target, *small_network.arguments(folder)]) == 0
    data = (folder / "model.so").read_bytes()
    assert data[:4] == b"\x7fELF" and int.from_bytes(data[18:20], "little") == 183  # EM_AARCH64
    assert set(ElfFile(folder / "model.so").needed()) <= {"libc.so.6", "libm.so.6"}
    if form == "vm":
        return  # to run it takes TVM's runtime library for aarch64
    empty_path.undo()
    GENERIC_ARM64.require()
    images = torch.randn(2, *small_network.SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = small_network.make()(images).numpy()
    logits = GENERIC_ARM64.run(GENERIC_ARM64.link(folder), images.numpy(), (10,))
    # Sums of 27 and of 1024 products in another order: an error far below 1e-5 of values around 1.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["vm", "c"])
def test_without_zig_both_ways_out_are_told(form, empty_path, tmp_path, capsys):
    empty_path.setattr(toolchain, "_has_zig", lambda: False)
    folder = tmp_path / "out"
    target = ["--target", "llvm -mtriple=aarch64", "--runtime", form]
    assert command.main([*target, *small_network.arguments(folder)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert "package gcc-aarch64-linux-gnu on Debian" in errors[0]
    assert 'pip install "tvm-insta[cross]"' in errors[0]
    assert not folder.exists()
