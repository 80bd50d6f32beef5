"""benchmarks.arm: its table, and counts of real programs where QEMU is."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmarks import arm, arm_figures, arm_qemu
from tvm_insta.tuning import llvm_mca

ROW = arm_figures.Row("cortex-a72", "56x56x64", 3.5, 4.4, 3.3, 1.55, 1.5)


def test_table_and_json(tmp_path):
    text = arm.layer_table([ROW], header=True)
    assert "3.50" in text and "1.03" in text and "ms" not in text
    model = arm_figures.Model("cortex-a72", "ResNet-18", 1.5e8)
    line = arm.model_line(model, [ROW])
    # 1.5e8 instructions * 1.55 / 3.3 cycles / 1.5 GHz
    assert "150.0 million" in line and "47 ms on a Raspberry Pi 4" in line and "IF" in line
    assert "ms" not in arm.model_line(arm_figures.Model("cortex-a76", "x", 1.0), [ROW])
    arm.write_json(tmp_path / "arm.json", [ROW], [model])
    assert json.loads((tmp_path / "arm.json").read_text())["layers"][0]["bare"] == 3.5


def test_without_an_emulator(monkeypatch, capsys):
    monkeypatch.setattr(arm_qemu.shutil, "which", lambda name: None)
    assert arm.main(["--cores", "cortex-a72", "--no-model"]) == 2
    error = capsys.readouterr().err
    assert "error: " in error and "Traceback" not in error


LIMITS = {
    # instructions per 128 products of a whole bare call, of one with the epilogue of a block (for
    # 64 channels, where it weighs most) and of the inner loop; modelled cycles
    "cortex-a72": (4.2, 4.2, 3.75, 1.05 * 1.5),
    "cortex-a76": (3.7, 4.2, 3.75, None),
    "cortex-a9": (5.5, 5.5, 5.5, None),
}


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("name", LIMITS)
def test_instructions_of_a_layer(name, tmp_path):
    from benchmarks.arm_layers import measure_layers

    (core,) = [core for core in arm_qemu.CORES if core.name == name]
    gcc = "aarch64-linux-gnu-gcc" if core.parsed.arch == "aarch64" else "arm-linux-gnueabihf-gcc"
    if not all(map(shutil.which, ("qemu-aarch64", "qemu-arm", gcc))):
        pytest.skip("QEMU's user emulation or the cross compiler is not installed")
    mca = llvm_mca.find()
    first, row = measure_layers(core, [(56, 64), (14, 256)], mca, tmp_path)
    bare, fused, loop, cycles = LIMITS[name]
    assert 3 < row.loop <= loop and row.loop < row.bare <= bare, row
    assert row.bare < row.fused and first.bare < first.fused <= fused, (row, first)
    if cycles is not None and mca is not None and llvm_mca.version(mca) >= "15":
        assert 1 < row.cycles <= cycles, row
