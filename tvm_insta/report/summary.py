"""The lines that the compile command ends with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tvm_insta.runtime.manifest import Manifest


def compile_summary(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Say what was compiled, what stayed float and why, and what was written."""
    binary = [layer for layer in manifest.layers if layer.kind == "binary"]
    others = [layer for layer in manifest.layers if layer.kind != "binary"]
    total = sum(layer.macs for layer in manifest.layers)
    macs = sum(layer.macs for layer in binary)
    share = 100.0 * macs / total if total else 0.0
    yield (
        f"{len(binary)} binary layers with {macs / 1e6:.1f} M multiply-accumulates "
        f"({share:.1f} % of all), {len(others)} float layers"
    )
    for layer in others:
        yield f"  float: {layer.name} ({layer.macs / 1e6:.1f} M): {layer.reason}"
    for note in dict.fromkeys(note for layer in manifest.layers for note in layer.notes):
        yield f"  note: {note}"
    states = Counter(
        schedule.state
        for layer in manifest.layers
        if layer.calls and (schedule := manifest.kernels_of(layer)[0].schedule) is not None
    )
    if states:
        yield "schedules: " + ", ".join(f"{count} {state}" for state, count in states.most_common())
    if manifest.working_set is not None:
        yield f"working set {manifest.working_set / 1e6:.2f} MB (weights and activations)"
    memory = manifest.memory
    if memory is not None:
        yield (
            f"  weights {_size(memory.weights)}; arena {_size(memory.arena)}, at its fullest in "
            f"{memory.kernel}: activations {_size(memory.alive - memory.scratch)}, scratch "
            f"{_size(memory.scratch)}; each further thread adds {_size(memory.thread)}"
        )
    seconds = manifest.options.get("compile_seconds")
    yield f"compiled in {seconds} s for {manifest.target}"
    yield _check_line(manifest)
    for reason in manifest.options.get("check_notes", ()):
        yield f"  not judged: {reason}"
    for name in [*sorted(manifest.files), "model.json"]:
        yield f"wrote {folder / name} ({(folder / name).stat().st_size / 1e6:.2f} MB)"


def _check_line(manifest: Manifest) -> str:
    """What became of the comparison with PyTorch, and what it added to the time."""
    seconds = float(manifest.options.get("check_seconds", 0.0))
    total = seconds + float(manifest.options.get("compile_seconds", 0.0))
    share = f"{100 * seconds / total:.0f} % of all" if total else ""
    return f"check against PyTorch: {manifest.options.get('checked')} ({seconds} s, {share})"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.1f} kB"
