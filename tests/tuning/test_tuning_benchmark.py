"""benchmarks.tuning: both searches on one table of figures."""

from __future__ import annotations

import json

import pytest

from benchmarks import tuning


@pytest.fixture(scope="module")
def stem():
    return tuning.stem_task("llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v4")


def valley(tiles):
    """Figures as they look: tiles that fill the registers win, bands hardly matter."""
    return 1e-3 * (1 + abs(tiles.width_tile * tiles.out_tile - 14) + 0.01 * tiles.row_band)


def test_the_evolutionary_search_beats_random_search(stem):
    task, target = stem
    table = [valley(tiles) for tiles in task.choices]
    found = tuning.compare(task, target, "seconds", table, 24, range(3))
    assert found.wins
    assert len(found.evolutionary) == len(found.random) == 3
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
