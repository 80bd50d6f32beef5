"""benchmarks.layers and peak.c: rates, tables, JSON, and what they say where they cannot run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from benchmarks import layers
from tvm_insta.runtime import amx, cpu
from tvm_insta.target import parse
from tvm_insta.tuning import peak
from tvm_insta.tuning.peak import Peaks, measure_peaks

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)
PEAKS = Peaks(
    {"popcount_vpopcntdq512": 1000.0, "popcount_scalar64": 300.0, "fma_512": 50.0, "vnni_512": 400},
    {"amx_int8": "the processor has no amx-int8"},
    "cc",
)
LAYER = layers.Layer(
    *("native", "56x56x64 3x3 bare", "binary", 115_605_504, 150.0, 120.0),
    *("popcount_vpopcntdq512", 1000.0),
)


def test_rates():
    assert LAYER.gmacs == pytest.approx(115_605_504 / 150e-6 / 1e9)
    assert LAYER.best_gmacs == pytest.approx(115_605_504 / 120e-6 / 1e9)


def test_report_has_every_peak_and_the_shares():
    lines = layers.report("A processor", PEAKS, [LAYER]).splitlines()
    assert "| popcount_vpopcntdq512 | 1000 |" in lines
    assert "| amx_int8 | - (the processor has no amx-int8) |" in lines
    # 770.7 GMAC/s: 77 % of the popcount peak, 193 % of VNNI; AMX has no column.
    row = "| 56x56x64 3x3 bare | 150.0 | 120.0 | 771 | 963 | 77% | popcount_vpopcntdq512 | 193% |"
    assert row in lines


def test_shares_of_amx_and_one_kind_of_vnni():
    rates = {**PEAKS.rates, "amx_int8": 4000.0, "vnni_256": 200.0}
    table = layers.report("A processor", Peaks(rates, {}, "cc"), [LAYER])
    assert "| of amx_int8 | of vnni_512 |" in table and "of vnni_256" not in table
    assert "| 19% | 193% |" in table


def test_the_report_says_why_there_is_no_amx():
    lines = layers.report("A processor", PEAKS, [LAYER], {"native": "it has none"}).splitlines()
    assert lines[-1] == "No binary layer of native in AMX tiles: it has none."
    assert "AMX tiles" not in layers.report("A processor", PEAKS, [LAYER])


def test_why_there_is_no_amx(monkeypatch):
    assert "has no amx-int8" in layers._no_tiles(parse("avx2"), PEAKS)
    server = parse("llvm -mcpu=sapphirerapids")
    monkeypatch.setattr(amx, "_request", lambda: 1)
    assert "refuses" in layers._no_tiles(server, PEAKS)
    monkeypatch.setattr(amx, "_request", lambda: 0)
    assert layers._no_tiles(server, PEAKS) == "the processor has no amx-int8"
    assert layers._no_tiles(server, Peaks({"amx_int8": 4000.0}, {}, "cc")) == ""


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"avx512vpopcntdq", "avx512bw", "avx2", "ssse3", "popcnt"}, "popcount_vpopcntdq512"),
        ({"avx2", "ssse3", "popcnt"}, "popcount_nibbles256"),
        ({"ssse3", "popcnt"}, "popcount_nibbles128"),
        ({"popcnt"}, "popcount_scalar64"),
        (set(), "popcount_shifts128"),
    ],
)
def test_a_target_is_measured_against_what_it_may_use(features, name):
    rates = {
        **{"popcount_vpopcntdq512": 1250.0, "popcount_lookup512": 430.0},
        **{"popcount_lookup256": 470.0, "popcount_lookup128": 230.0},
        **{"popcount_nibbles256": 770.0, "popcount_nibbles128": 390.0},
        **{"popcount_shifts128": 130.0, "popcount_scalar64": 290.0, "fma_512": 9999.0},
    }
    assert Peaks(rates, {}, "cc").best("popcount", features) == (name, rates[name])


def test_every_probe_of_the_source_is_known():
    folder = peak._SOURCE.parent
    source = "".join((folder / name).read_text() for name in ("peak.c", "peak_x86.h"))
    probes = set(re.findall(r'add\("(\w+)"', source))
    assert {"popcount_vpopcntdq512", "fma_neon128", "amx_int8"} <= probes
    assert {n for n in probes if n.startswith(("popcount_", "fma_"))} == set(peak._NEEDS)


def test_no_compiler_is_one_sentence_and_code_2(monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert layers.main([]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no-such-compiler" in error and "install one or set CC" in error


@needs_compiler
def test_without_any_feature_only_the_baseline_is_measured():
    peaks = measure_peaks(())
    # A core does at least one 64-bit step per 100 cycles and no more than 10 steps per cycle, at
    # 0.5 to 10 GHz. That the loops are not folded away is known from the sums that peak.c checks.
    name, rate = peaks.best("popcount", ())
    assert 64 * 0.5 / 100 < rate < 64 * 10 * 10
    assert peaks.best("fma", ())[1] > 0
    if cpu.machine() == "x86_64":
        assert name == "popcount_shifts128"
        assert set(peaks.rates) == {"popcount_shifts128", "fma_separate128"}
        assert peaks.skipped["amx_int8"] == "the processor has no amx-int8"


@needs_compiler
def test_what_this_processor_has_is_measured():
    features = cpu.cpu_features()
    peaks = measure_peaks(features)
    assert set(peaks.rates).isdisjoint(peaks.skipped)
    assert all(rate > 0 for rate in peaks.rates.values())
    for feature, name in (("avx2", "popcount_lookup256"), ("avx512vnni", "vnni_512")):
        assert (name in peaks.rates) == (feature in features)
    refused = "amx-int8" not in features or "kernel refuses" in peaks.skipped.get("amx_int8", "")
    if cpu.machine() == "x86_64":
        assert ("amx_int8" in peaks.rates) != refused


@needs_compiler
def test_a_wrong_sum_is_not_a_peak(monkeypatch, tmp_path):
    """Take one product of 1.5 * 0.5 for another, as a folded loop might."""
    for name in ("peak.c", "peak_x86.h"):
        text = (peak._SOURCE.parent / name).read_text(encoding="utf-8")
        changed = text.replace("ROUNDS * 0.75f)", "ROUNDS * 0.5f)")
        assert name != "peak.c" or changed != text
        (tmp_path / name).write_text(changed, encoding="utf-8")
    monkeypatch.setattr(peak, "_SOURCE", tmp_path / "peak.c")
    with pytest.raises(peak.ToolchainError, match="computes a wrong sum"):
        measure_peaks(())


@needs_compiler
def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path, capsys):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'cannot do that' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert layers.main([]) == 2
    assert "cannot do that" in capsys.readouterr().err


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_other_architectures_compute_the_right_sums(machine, tmp_path):
    compiler, qemu = f"{machine}-linux-gnu-gcc", shutil.which(f"qemu-{machine}")
    if not (shutil.which(compiler) and qemu):
        pytest.skip(f"needs {compiler} and qemu-{machine}")
    # Fewer rounds: QEMU is slow, and only the sums matter here.
    program = tmp_path / "peak"
    source = tmp_path / "peak.c"
    text = peak._SOURCE.read_text(encoding="utf-8").replace("ROUNDS 400000", "ROUNDS 1000")
    source.write_text(text.replace("REPEATS 12", "REPEATS 1"), encoding="utf-8")
    command = [compiler, "-O2", "-static", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([qemu, str(program)], check=True, capture_output=True, text=True)
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert names >= {"popcount_scalar64"} and any(name.startswith("fma_") for name in names)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--repeats", "0"], "--repeats 0"),
        (["--target", "rpi4"], "does not run here"),
        (["--target", "llvm -mcpu=nonesuch"], "nonesuch"),
        (["--json", "no/such/folder/a.json"], "no/such/folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(options, part, capsys):
    if cpu.machine() == "aarch64" and "rpi4" in options:
        pytest.skip("this machine may run code for a Raspberry Pi")
    assert layers.main(options) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1


@pytest.mark.slow
@needs_compiler
def test_layers_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    monkeypatch.setattr(layers, "BINARY_LAYERS", ((7, 64),))
    monkeypatch.setattr(layers, "FLOAT_LAYERS", ((8, 3, 2, 3, 32),))
    record = tmp_path / "layers.json"
    assert layers.main(["--repeats", "2", "--json", str(record)]) == 0
    written = json.loads(record.read_text(encoding="utf-8"))
    assert {"cpu", "features", "system", "date", "cores", "versions", "peaks"} <= set(written)
    found = [(entry["name"], entry["kind"], entry["macs"]) for entry in written["layers"]]
    assert found == [
        ("7x7x64 3x3 bare", "binary", 7 * 7 * 64 * 64 * 9),
        ("7x7x64 3x3 fused", "binary", 7 * 7 * 64 * 64 * 9),
        ("8x8x3 3x3 s2 to 32", "float", 4 * 4 * 9 * 3 * 32),
    ]
    for entry in written["layers"]:
        assert 0 < entry["best_us"] <= entry["median_us"]
        assert entry["peak_gmacs"] == written["peaks"]["rates"][entry["peak"]]
    assert "| 7x7x64 3x3 fused |" in capsys.readouterr().out
