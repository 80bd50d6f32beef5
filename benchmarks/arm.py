"""Arm without a board: instructions under QEMU, modelled cycles, and what others are known to need.

    python -m benchmarks.arm [--cores NAME ...] [--no-model] [--stem int8] [--json FILE]

Per layer and core, for the binary 3x3 layers of ResNet-18: instructions of a whole call per 128
binary multiply-accumulates (bare, and with the whole epilogue of a block), instructions of the
inner loop, and the cycles that llvm-mca models for it, beside Larq Compute Engine's hand-written
loop. Then the instructions of whole ResNet-18 networks. QEMU counts instructions exactly and says
nothing of time: no milliseconds are measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.arm_figures import LARQ_INSTRUCTIONS, Model, Row
from benchmarks.arm_qemu import CORES, emulator
from tvm_insta import cli
from tvm_insta.compiler.options import STORAGE
from tvm_insta.tuning import llvm_mca

# (image side, channels) of the binary 3x3 layers of ResNet-18.
LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512))

PUBLISHED = (
    "Published single-thread latencies of Bi-RealNet-18 on a Pixel 1 (Kryo, 2.15 GHz): 41.6 ms "
    "(Larq Compute Engine), 61.3 ms (daBNN)."
)

# GHz of the boards that these cores are known from.
_CLOCKS = {"cortex-a53": ("Raspberry Pi 3", 1.2), "cortex-a72": ("Raspberry Pi 4", 1.5)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="benchmarks.arm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [core.name for core in CORES]
    result.add_argument("--cores", nargs="+", choices=names, default=names, metavar="NAME")
    result.add_argument("--no-model", action="store_true", help="layers only")
    result.add_argument(
        "--stem",
        choices=("fp32", "int8"),
        default="fp32",
        help="numbers of the networks' float layers; int8 takes cores with dot products",
    )
    result.add_argument(
        "--storage", choices=STORAGE, default="fp32", help="how the networks store images"
    )
    result.add_argument("--onnxruntime", type=Path, metavar="ROOT", help=_ONNX_HELP)
    result.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    return result


_ONNX_HELP = (
    "root folder of an aarch64 system with a python3 that imports numpy and onnxruntime; ONNX "
    "Runtime is counted beside ours"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    return cli.execute(_run, parser(), argv)


def _run(args: argparse.Namespace) -> int:
    cores = [core for core in CORES if core.name in args.cores]
    for core in cores:
        emulator(core)  # before minutes of compilation
    from benchmarks.arm_layers import measure_layers
    from benchmarks.arm_models import measure_models, measure_onnx_runtime

    mca = llvm_mca.find()
    print(_mca_line(mca))
    rows: list[Row] = []
    models: list[Model] = []
    with tempfile.TemporaryDirectory() as folder:
        for core in cores:
            rows += measure_layers(core, LAYERS, mca, Path(folder))
            print(layer_table(rows[-len(LAYERS) :], header=core is cores[0]))
        if not args.no_model:
            for core in cores:
                models.append(measure_models(core, Path(folder), args.stem, args.storage))
                print(model_line(models[-1], rows))
            if args.onnxruntime is None:
                print("ONNX Runtime was not counted: it takes --onnxruntime ROOT.")
            else:
                models += measure_onnx_runtime(args.onnxruntime, cores, Path(folder))
                print("\n".join(peer_lines(models)))
            print(PUBLISHED)
    if args.json is not None:
        write_json(args.json, rows, models)
    return 0


def _mca_line(mca: str | None) -> str:
    head = "Per 128 binary multiply-accumulates: instructions of a whole call (bare, fused), of the"
    if mca is None:
        return f"{head} inner loop; no modelled cycles, for there is no llvm-mca (package llvm)."
    known = f"Larq: {LARQ_INSTRUCTIONS} instructions"
    return f"{head} inner loop, and its cycles in llvm-mca {llvm_mca.version(mca)}. {known}."


def layer_table(rows: Sequence[Row], *, header: bool) -> str:
    """The table of some layers."""
    lines = []
    if header:
        lines.append(
            f"{'core':12} {'layer':12} {'bare':>6} {'fused':>6} {'loop':>6} {'cycles':>7} "
            f"{'Larq':>5} {'ratio':>6}"
        )
    for row in rows:
        cycles = "-" if row.cycles is None else f"{row.cycles:.2f}"
        larq = "-" if row.larq is None else f"{row.larq:.1f}"
        both = row.cycles is not None and row.larq is not None
        ratio = f"{row.cycles / row.larq:.2f}" if both else "-"
        lines.append(
            f"{row.core:12} {row.layer:12} {row.bare:6.2f} {row.fused:6.2f} {row.loop:6.2f} "
            f"{cycles:>7} {larq:>5} {ratio:>6}"
        )
    return "\n".join(lines)


def model_line(model: Model, rows: Sequence[Row]) -> str:
    """Instructions of a network and, where a board is known, the latency that they would mean."""
    text = f"{model.core}: {model.network}, {model.instructions / 1e6:.1f} million instructions"
    mine = [row for row in rows if row.core == model.core and row.cycles is not None]
    if model.core not in _CLOCKS or not mine:
        return text
    board, clock = _CLOCKS[model.core]
    per = sum((row.cycles or 0) / row.loop for row in mine) / len(mine)
    latency = model.instructions * per / clock / 1e6
    return (
        f"{text}; {latency:.0f} ms on a {board} ({clock} GHz) IF every instruction took the "
        f"{per:.2f} cycles that the inner loops are modelled with and no load missed the caches"
    )


def peer_lines(models: Sequence[Model]) -> list[str]:
    """ONNX Runtime beside ours on the same core."""
    ours = {m.core: m.instructions for m in models if "onnx" not in m.network.lower()}
    return [
        f"{m.core}: {m.network}, {m.instructions / 1e6:.1f} million instructions, ours "
        f"{ours[m.core] / m.instructions:.2f} of them"
        for m in models
        if "onnx" in m.network.lower()
    ]


def write_json(path: Path, rows: Sequence[Row], models: Sequence[Model]) -> None:
    """Write the results."""
    result = {"layers": [asdict(row) for row in rows], "models": [asdict(m) for m in models]}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
