"""benchmarks.tuning: both searches on one table of figures."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks import tuning


@pytest.fixture(scope="module")
def stem():
    return tuning.stem_task("llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v4")


def valley(tiles):
    """Figures as they look: too few sums in registers wait, too many spill, bands hardly matter."""
    registers = tiles.width_tile * tiles.out_tile
    waiting = 1 + 0.9 * max(0, 8 - registers) / 8
    spilled = 1.5 if registers > 16 else 1 + 0.02 * abs(14 - registers) / 14
    crowded = 1.25 if tiles.unroll_taps and registers > 7 else 1.0
    bands = 1 + 0.03 * (tiles.row_band < 4) + 0.0001 * tiles.row_band
    narrow = 1 + 0.05 * abs(math.log2(tiles.width_tile / 4))  # the default is 14 pixels wide
    return 2e-3 * waiting * spilled * crowded * bands * narrow


@pytest.mark.slow
def test_the_evolutionary_search_beats_random_search(stem):
    task, target = stem
    table = [valley(tiles) for tiles in task.choices]
    found = tuning.compare(task, target, "seconds", table, 24, range(6))
    # One in twenty choices is within one per cent, so random search is lucky with some seeds.
    assert found.wins
    assert max(found.evolutionary) < max(found.random)
    assert len(found.evolutionary) == len(found.random) == 6
    assert min(table) == found.optimum <= min(found.evolutionary)
    lines = list(tuning.report(found))
    assert lines[-1] == "the evolutionary search is better"
    assert f"{len(table)} choices, 24 trials" in lines[0]


def test_a_kept_table_is_used_and_checked(stem, tmp_path, capsys):
    task, _ = stem
    path = tmp_path / "table.json"
    figures = [valley(tiles) for tiles in task.choices]
    kept = {"task": task.key, "runner": "local", "unit": "seconds", "figures": figures}
    path.write_text(json.dumps(kept))
    arguments = ["--target", "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v4", "--seeds", "1"]
    arguments += ["--trials", "9", "--table", str(path), "--json", str(tmp_path / "out.json")]
    assert tuning.main(arguments) == 0
    assert "9 trials of each search" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["choices"] == len(figures)
    assert tuning.main([*arguments, "--runner", "mca"]) == 2
    assert "another task or runner" in capsys.readouterr().err
