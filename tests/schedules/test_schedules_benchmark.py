"""benchmarks.layers: its table, its JSON, and what it says where it cannot run."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmarks import layers
from tvm_insta.tuning.peak import Peak, measure_peak

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)
PEAK = Peak(binary_gmacs=1000.0, float_gmacs=50.0, word_bits=512, compiler="cc")
LAYER = layers.Layer("56x56x64 3x3 bare", "binary", 115_605_504, 150.0, 120.0, 1000.0)


def test_rates():
    assert LAYER.gmacs == pytest.approx(115_605_504 / 150e-6 / 1e9)
    assert LAYER.best_gmacs == pytest.approx(115_605_504 / 120e-6 / 1e9)


def test_report_and_json(tmp_path):
    text = layers.report(PEAK, [LAYER])
    assert "1000 binary GMAC/s" in text and "77%" in text and "771" in text
    layers.write_json(tmp_path / "layers.json", PEAK, [LAYER])
    written = json.loads((tmp_path / "layers.json").read_text())
    assert written["threads"] == 1 and written["peak"]["binary_gmacs"] == 1000.0
    assert written["layers"][0]["median_us"] == 150.0


def test_no_compiler_is_one_sentence_and_code_2(monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert layers.main([]) == 2
    error = capsys.readouterr().err
    assert "no-such-compiler" in error and "install one or set CC" in error
    assert error.count("\n") == 1


@needs_compiler
def test_peak_without_any_feature_is_a_rate_of_64_bit_words():
    peak = measure_peak(frozenset())
    # A core does at least one popcount step per 100 cycles and no more than 10 steps per cycle, at
    # 0.5 to 10 GHz, so a folded or hoisted loop falls out of the range.
    assert 64 * 0.5 / 100 < peak.binary_gmacs < 64 * 10 * 10
    assert peak.word_bits == 64


@needs_compiler
def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path, capsys):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'cannot do that' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert layers.main([]) == 2
    assert "cannot do that" in capsys.readouterr().err
