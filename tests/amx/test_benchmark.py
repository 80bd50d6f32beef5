"""benchmarks.layers where there is AMX: all forms of every binary layer, side by side."""

from __future__ import annotations

from benchmarks import layers
from tvm_insta.tuning.peak import Peaks


def test_both_forms_are_timed(tiles, target, monkeypatch):
    """Emulated tiles say nothing of the time; what ran, and what stands beside it, does count."""
    rates = {"amx_int8": 4000.0, "popcount_vpopcntdq512": 1000.0, "popcount_lookup512": 400.0}
    monkeypatch.setattr(layers, "measure_peaks", lambda features: Peaks(rates, {}, "cc"))
    monkeypatch.setattr(layers, "BINARY_LAYERS", ((4, 64),))
    monkeypatch.setattr(layers, "FLOAT_LAYERS", ())
    before = tiles.count("products")
    peaks, found, no_tiles = layers.measure([target.text], 1)
    assert no_tiles == {}
    forms = ("bits", "bits ahead", "bytes", "bits, byte image", "bytes, byte image")
    assert [(layer.name, layer.kind) for layer in found] == [
        each
        for name in ("4x4x64 3x3 bare", "4x4x64 3x3 fused")
        for each in [(name, "binary"), *((f"{name}, AMX, {form}", "tiles") for form in forms)]
    ]
    assert [layer.peak == "amx_int8" for layer in found] == [False, *[True] * 5] * 2
    assert before is None or tiles.count("products") > before
    assert "| 4x4x64 3x3 fused, AMX, bytes |" in layers.report(
        "A processor", peaks, found, no_tiles
    )
