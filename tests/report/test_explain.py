"""The rows of an explanation, its three forms, and what two artefacts differ in."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tvm_insta import explain as command
from tvm_insta import runtime
from tvm_insta.errors import InputError
from tvm_insta.report.compare import compare
from tvm_insta.report.explanation import explain
from tvm_insta.report.layer_times import KernelTime, LayerTimes, Peaks, write_times
from tvm_insta.report.missed import missed
from tvm_insta.report.tables import WIDTH, columns, cut
from tvm_insta.runtime.manifest import Schedule


def manifest_of(folder):
    return runtime.manifest.read(folder / "model.json")


PEAKS = Peaks(1000.0, 50.0, 100.0, 10.0)


def times_of(manifest, scale=1.0, peaks=PEAKS):
    kernels = [KernelTime(k.symbol, scale * 1e-6 * (1 + k.index)) for k in manifest.kernels]
    total = sum(kernel.seconds for kernel in kernels)
    counts = {"batch": 1, "threads": 1, "repeat": 1, "warmup": 0, "cpu": "a processor"}
    return LayerTimes(total / 0.98, total, 0.98, tuple(kernels), peaks, **counts)


@pytest.mark.parametrize("form", ["vm", "c"])
def test_rows_agree_with_the_manifest(profiled, form):
    manifest = manifest_of(profiled / form)
    found = explain(manifest, times_of(manifest))
    assert [row.name for row in found.layers] == [layer.name for layer in manifest.layers]
    assert [row.symbol for row in found.kernels] == [k.symbol for k in manifest.kernels]
    assert found.totals.macs == sum(row.macs for row in found.kernels)
    assert all(row.operators for row in found.kernels)
    for row in found.layers:
        assert row.state in ("tuned", "similar", "default") and row.fallback is None
        assert (row.input == "packed") == (row.kind == "binary")
        elements = 1
        for dim in row.weight_shape:
            elements *= dim
        least = elements // 8 if row.kind == "binary" else 4 * elements
        assert row.weight_bytes >= least
    packing = [row for row in found.kernels if "insta.threshold_pack" in row.operators]
    assert packing and sum(row.timing.share for row in found.kernels) == pytest.approx(1.0)


def test_rates_are_operations_by_time(profiled):
    manifest = manifest_of(profiled / "c")
    found = explain(manifest, times_of(manifest))
    for row in found.layers:
        (call,) = row.kernels
        seconds = 1e-6 * (1 + call)
        assert row.timing.seconds == pytest.approx(seconds)
        assert row.timing.gmacs == pytest.approx(1e-9 * row.macs / seconds)
        peak = 1000.0 if row.kind == "binary" else 50.0
        assert row.timing.of_peak == pytest.approx(1e-9 * row.macs / seconds / peak)
    without = explain(manifest, times_of(manifest, peaks=None))
    assert {row.timing.of_peak for row in without.kernels} == {None}


def test_times_of_another_artefact_are_refused(profiled, tmp_path, capsys):
    manifest = manifest_of(profiled / "c")
    times = times_of(manifest)
    fewer = dataclasses.replace(times, kernels=times.kernels[1:])
    with pytest.raises(InputError, match="measure this artefact"):
        explain(manifest, fewer)
    write_times(tmp_path / "times.json", fewer)
    code = command.main([str(profiled / "c"), "--times", str(tmp_path / "times.json")])
    assert code == 2 and "measure this artefact" in capsys.readouterr().err


def test_the_command_writes_text_json_and_html(profiled, tmp_path, capsys):
    files = tmp_path / "e.json", tmp_path / "e.html"
    write_times(tmp_path / "t.json", times_of(manifest_of(profiled / "vm")))
    options = [
        "--json",
        str(files[0]),
        "--html",
        str(files[1]),
        "--times",
        str(tmp_path / "t.json"),
    ]
    assert command.main([str(profiled / "vm"), *options]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if not line.startswith("wrote ")]
    assert max(map(len, lines)) <= WIDTH
    data = json.loads(files[0].read_text(encoding="utf-8"))
    assert data["schema"] == "tvm_insta.explain/1"
    page = files[1].read_text(encoding="utf-8")
    for layer in data["layers"]:
        assert layer["name"] in printed and layer["name"] in page
    assert not [word for word in ("http://", "https://", "src=", "@import", "url(") if word in page]


def test_what_is_missed_is_named(profiled):
    manifest = manifest_of(profiled / "c")
    plain = dataclasses.replace(manifest, features=(), machine="x86_64")
    assert any("avx2" in each.what for each in missed(plain, here=("avx2",)))
    assert not any("avx2" in each.what for each in missed(plain, here=()))
    floats = tuple(layer for layer in manifest.layers if layer.kind == "float")

    def stems(*features):
        able = dataclasses.replace(manifest, features=features, layers=floats)
        return " ".join(each.change for each in missed(able, here=()) if "--stem" in each.change)

    assert "--stem int8" in stems("avx512vnni")
    assert "bf16" not in stems("avx512vnni", "avx512bf16")  # Intel without tiles: no gain
    assert "--stem int8 or --stem bf16" in stems("avx512vnni", "avx512bf16", "sse4a")
    assert "--stem bf16" in stems("amx-bf16")
    kernels = tuple(
        dataclasses.replace(kernel, schedule=Schedule("unscheduled", "stale", "no rule fits"))
        for kernel in manifest.kernels
    )
    stale = dataclasses.replace(manifest, kernels=kernels)
    said = " ".join(each.what for each in missed(stale, here=()))
    assert "stale records" in said and "no rule fits" in said
    assert "no rule fits" in str(explain(stale))


def test_two_artefacts_side_by_side(profiled, tmp_path, capsys):
    before, after = (manifest_of(profiled / form) for form in ("vm", "c"))
    first, *others = after.layers
    changed = dataclasses.replace(first, notes=("computed in int8",))
    after = dataclasses.replace(after, layers=(changed, *others[:-1]))
    found = compare(explain(before, times_of(before)), explain(after, times_of(after, scale=0.5)))
    by_name = {layer.name: layer for layer in found.layers}
    assert [(c.field, c.after) for c in by_name[first.name].changes] == [
        ("notes", "computed in int8")
    ]
    assert by_name[others[-1].name].only == "before"
    assert not any(by_name[layer.name].changes for layer in others[:-1])
    # The vm form has no kernel more than the plain-C form: the times halve.
    seconds = by_name[first.name].seconds
    assert len(before.kernels) == len(after.kernels) and seconds[1] == seconds[0] / 2
    files = tmp_path / "c.json", tmp_path / "c.html"
    paths = [str(profiled / form) for form in ("vm", "c")]
    assert command.main([*paths, "--json", str(files[0]), "--html", str(files[1])]) == 0
    assert "form: vm -> c" in capsys.readouterr().out
    assert (
        json.loads(files[0].read_text(encoding="utf-8"))["schema"] == "tvm_insta.explain-compare/1"
    )
    assert first.name in files[1].read_text(encoding="utf-8")


def test_mistakes_are_one_sentence(profiled, tmp_path, capsys):
    for argv in (
        [str(tmp_path / "nothing")],
        [str(profiled / "c"), "--other-times", "x.json"],
        [str(profiled / "c"), "--times", str(tmp_path / "none.json")],
        [str(profiled / "c"), "--html", str(tmp_path / "no" / "e.html")],
    ):
        assert command.main(argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error


def test_columns_fit_and_cut_the_middle():
    rows = [("name", "value"), ("a" * 90 + "end", "b" * 20)]
    lines = list(columns(rows, width=60))
    assert max(map(len, lines)) == 60 and ".." in lines[1] and "end " in lines[1]
    assert cut("abcdefghij", 6) == "ab..ij" and cut("abc", 6) == "abc"
