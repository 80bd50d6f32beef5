"""The page of the ablation: who is compared with whom, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import ablation, ablation_runs
from tvm_insta.errors import InputError, TrainError
from tvm_insta.train import Recipe, history
from tvm_insta.train.trainer import RECIPE_NAME


def write_run(folder, recipe, accuracy, epochs=None):
    folder.mkdir(parents=True)
    history.write_recipe(folder / RECIPE_NAME, recipe)
    last = recipe.total_epochs if epochs is None else epochs
    rows = [
        history.Row(n, "binary", 1e-3, 2.0 / n, 0.5, accuracy if n == last else None, 0.0, 1.0)
        for n in range(1, last + 1)
    ]
    history.write(folder / history.NAME, rows)


def cells(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


BASE = Recipe(variant="baseline", epochs=(1, 2))


def test_page(tmp_path, capsys):
    runs = tmp_path / "runs"
    for seed, (plain, ours) in enumerate([(0.70, 0.76), (0.72, 0.77), (0.71, 0.75)]):
        write_run(runs / f"a{seed}", replace(BASE, seed=seed), plain)
        write_run(runs / f"b{seed}", replace(BASE, seed=seed, variant="insta"), ours)
    write_run(
        runs / "c", replace(BASE, variant="insta", statistic="mean", reuse_statistics=True), 0.7
    )
    write_run(runs / "d", replace(BASE, variant="insta_plus", epochs=(2, 2)), 0.9)
    write_run(runs / "e", replace(BASE, variant="insta_plus"), 0.5, epochs=1)
    output = tmp_path / "page.md"
    assert ablation.main(["--runs", str(runs), "--output", str(output), "--data", "shapes"]) == 0
    text = output.read_text()
    assert cells(text, "baseline")[1:4] == ["71.00 ± 1.00", "0, 1, 2", ""]
    assert cells(text, "insta")[1:4] == ["76.00 ± 1.00", "0, 1, 2", "+5.00 (spread 1.41)"]
    assert cells(text, "insta, mean, reused statistics")[1:4] == ["70.00", "0", "-1.00"]
    assert cells(text, "insta_plus")[3] == "no baseline", "another schedule is not compared"
    assert "- e: 1 of 3 epochs are done" in text and "Data: shapes." in text
    assert "8 finished runs, 1 others" in capsys.readouterr().out


def test_a_gain_within_the_spread_is_called_so(tmp_path):
    runs = []
    for seed, (plain, ours) in enumerate([(0.70, 0.71), (0.72, 0.72)]):
        for variant, accuracy in (("baseline", plain), ("insta", ours)):
            row = history.Row(1, "binary", 1e-3, 1.0, 0.5, accuracy, 0.0, 1.0)
            recipe = replace(BASE, variant=variant, seed=seed, epochs=(0, 1))
            runs.append(ablation_runs.Run(recipe, (row,)))
    text = ablation.page(ablation_runs.grouped(runs), [], "shapes", None)
    assert cells(text, "insta")[3] == "+0.50 (spread 1.58, within the spread)"


def test_latencies_are_kept_and_shown(tmp_path, monkeypatch):
    runs, output = tmp_path / "runs", tmp_path / "page.md"
    write_run(runs / "a", replace(BASE, start_sha256="0123456789abcdef"), 0.5)
    write_run(runs / "b", replace(BASE, variant="insta", start_sha256="0123456789abcdef"), 0.6)
    asked = {}

    def build(model, folder, options, **network):
        asked[str(folder)] = options["runtime"], network["variant"]

    def run_turns(task, cores, threads):
        slow = {("c", "baseline"): 1.0, ("c", "insta"): 1.25, ("vm", "baseline"): 1.5}
        return {
            name: [1e-3 * slow.get(asked[folder], 3.0) * drift for drift in (1.0, 2.0, 3.0)]
            for name, folder in task["folders"].items()
        }

    monkeypatch.setattr("benchmarks.engines.run_ours.build", build)
    monkeypatch.setattr("benchmarks.overhead.run_turns", run_turns)
    arguments = ["--runs", str(runs), "--output", str(output)]
    assert ablation.main([*arguments, "--measure", "--rounds", "3"]) == 0
    assert ablation.main(arguments) == 0, "the figures are kept"
    text = output.read_text()
    assert cells(text, "baseline")[-2:] == ["2.000 ms", "3.000 ms"]
    assert cells(text, "insta")[-2:] == ["+25 % (+25 to +25)", "+100 % (+100 to +100)"]
    assert "## resnet20, 1 and 2 epochs from a trained network (01234567)" in text
    (runs / ablation.NAME).write_text('{"results": [1]}')
    with pytest.raises(InputError, match="holds no latencies"):
        ablation.ablation_latency.read(runs / ablation.NAME)


def test_costs_are_those_of_the_modules():
    plain = ablation.cost(BASE)
    assert plain.statistics == 0
    insta = ablation.cost(replace(BASE, variant="insta", statistic="third_moment"))
    # One coefficient for each channel of 18 thresholds and 18 PReLUs.
    thresholds = 7 * 16 + 6 * 32 + 5 * 64
    prelus = 6 * 16 + 6 * 32 + 6 * 64
    assert insta.parameters - plain.parameters == thresholds + prelus
    elements = 7 * 16 * 32**2 + 6 * 32 * 16**2 + 5 * 64 * 8**2
    outputs = 6 * 16 * 32**2 + 6 * 32 * 16**2 + 6 * 64 * 8**2
    assert insta.statistics == 2 * (elements + outputs)
    # Only the first threshold has no PReLU before it.
    reused = ablation.cost(
        replace(BASE, variant="insta", statistic="third_moment", reuse_statistics=True)
    )
    assert reused.statistics == 2 * (16 * 32**2 + outputs)
    assert (
        ablation.cost(replace(BASE, variant="insta_plus", statistic="third_moment")).macs
        > insta.macs
        == plain.macs
    )


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        ablation_runs.read_runs(tmp_path)
    write_run(tmp_path / "a", BASE, 0.5)
    (tmp_path / "a" / "log.csv").write_text("epoch,loss\n1,x\n")
    with pytest.raises(TrainError, match="is no log of a training run"):
        ablation_runs.read_runs(tmp_path)
    (tmp_path / "a" / RECIPE_NAME).write_text('{"colour": 1}')
    with pytest.raises(TrainError, match="unknown entry 'colour'"):
        ablation_runs.read_runs(tmp_path)


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    write_run(tmp_path / "runs" / "a", BASE, 0.5)
    output, picture = tmp_path / "page.md", tmp_path / "page.png"
    arguments = ["--runs", str(tmp_path / "runs"), "--output", str(output), "--plot", str(picture)]
    assert ablation.main(arguments) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and "(page.png)" in output.read_text()


def test_baselines_that_differ_in_what_they_lack_are_one_row():
    row = history.Row(3, "binary", 1e-3, 1.0, 0.5, 0.7, 0.0, 1.0)
    recipes = [replace(BASE, seed=0, instance_rate=1.0), replace(BASE, seed=1, statistic="mean")]
    (group,) = ablation_runs.grouped([ablation_runs.Run(recipe, (row,)) for recipe in recipes])
    assert [run.recipe.seed for run in group.runs] == [0, 1]
