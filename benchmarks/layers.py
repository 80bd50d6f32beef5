"""``python -m benchmarks.layers``: single layers on one core, beside the core's measured peaks.

Binary 3x3 layers of ResNet-18 run bare (packed data in, int32 out) and with the whole epilogue of a
block (cast, scale, bias, residual, shift, PReLU, shift) fused behind them; the float layers are the
stems and the 1x1 shortcuts, with a bias. The kernels are those of the plain-C form: the same
schedules with serial loops.

A peak is what peak.c reaches in registers alone, with the fastest method that the features of the
target allow. Binary layers are also set beside AMX int8 and VNNI, where the processor has them, and
computed in AMX tiles, too, where target and processor have those, with weights as bits, as bits
that are expanded ahead of their use, and as bytes; where not, the report says why.
Every figure is the median over the repeats; the fastest repeat stands beside it, because other work
on the machine only ever makes a repeat slower.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import common
from tvm_insta import cli
from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime import amx, cpu
from tvm_insta.tuning.peak import Peaks, measure_peaks

if TYPE_CHECKING:
    from tvm_insta.target import InstaTarget

# (image side, channels) of the binary 3x3 layers of ResNet-18, 115.6 million MACs each.
BINARY_LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512))
_AMX = "amx_int8"  # the probe of peak.c
# (image side, kernel, stride, channels in, channels out).
FLOAT_LAYERS = (
    (224, 7, 2, 3, 64),  # the stem of ResNet-18
    (224, 3, 2, 3, 32),  # the stem of MobileNetV1
    (28, 1, 1, 64, 128),  # the shortcuts of ResNet-18, behind their average pools
    (14, 1, 1, 128, 256),
    (7, 1, 1, 256, 512),
)


@dataclass(frozen=True)
class Layer:
    """One measured layer.

    Attributes:
        target: as it was given.
        name: shape and kind.
        kind: "binary" (by popcount), "tiles" (binary, in AMX tiles) or "float".
        macs: multiply-adds per run.
        median_us: median time of a run, microseconds.
        best_us: fastest repeat, microseconds.
        peak: the probe of peak.c that the layer is measured against.
        peak_gmacs: its rate.
    """

    target: str
    name: str
    kind: str
    macs: int
    median_us: float
    best_us: float
    peak: str
    peak_gmacs: float

    @property
    def gmacs(self) -> float:
        """1e9 multiply-adds per second at the median."""
        return self.macs / self.median_us / 1e3

    @property
    def best_gmacs(self) -> float:
        """1e9 multiply-adds per second of the fastest repeat."""
        return self.macs / self.best_us / 1e3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="benchmarks.layers", description=__doc__)
    add = result.add_argument
    add(
        "--target",
        nargs="+",
        default=["native"],
        metavar="TEXT",
        help='targets as of tvm_insta.compile that run on this machine: native, avx2 (as "llvm '
        '-mcpu=haswell"), "llvm -mcpu=nehalem" (SSE)',
    )
    add("--repeats", type=int, default=30, metavar="N", help="default 30")
    add("--cores", type=int, nargs=1, help="the core to pin to (default: the first one)")
    common.add_output_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_layers, parser(), argv)


def _layers(args: argparse.Namespace) -> int:
    common.check_arguments(args, repeats=1)
    cores = common.choose_cores(args.cores, 1)
    # Before TVM is loaded: it reads the number of threads once.
    os.environ["TVM_NUM_THREADS"] = "1"
    with common.pinned(cores):
        peaks, layers, no_tiles = measure(args.target, args.repeats)
    record = common.record(
        cores=list(cores),
        threads=1,
        repeats=args.repeats,
        versions=common.versions("apache-tvm", "tvm-insta"),
        peaks=asdict(peaks),
        layers=[{**asdict(layer), "gmacs": layer.gmacs} for layer in layers],
        no_tiles=no_tiles,
    )
    common.write(args, record, report(record["cpu"], peaks, layers, no_tiles))
    return 0


def measure(targets: Sequence[str], repeats: int) -> tuple[Peaks, list[Layer], dict[str, str]]:
    """Measure the peaks, then every layer for every target.

    Returns:
        The peaks, the layers, and by target why binary layers were not computed in AMX tiles.

    Raises:
        InputError: a target that does not run on this machine.
    """
    from tvm_insta.target import parse

    parsed = {text: parse(text) for text in dict.fromkeys(targets)}
    for text, target in parsed.items():
        if target.host is not None or not target.is_native:
            lacking = ", ".join(cpu.missing(target.needs)) or f"a processor of {target.arch}"
            raise InputError(
                f"--target {text} does not run here, it needs {lacking}; choose one that does"
            )
    bar, step = cli.StepBar(), 0
    binary = len(BINARY_LAYERS)
    steps = 1 + len(parsed) * (2 * binary + len(FLOAT_LAYERS))
    bar("peaks", step := step + 1, steps)
    peaks = measure_peaks(cpu.cpu_features())
    no_tiles = {text: why for text, target in parsed.items() if (why := _no_tiles(target, peaks))}
    steps += (len(parsed) - len(no_tiles)) * 6 * binary
    layers = []
    for text, target in parsed.items():
        for name, kind, macs, module, wish in _kernels(target, tiles=text not in no_tiles):
            bar(f"{text}: {name}", step := step + 1, steps)
            layers.append(_time(text, target, name, kind, macs, module, wish, peaks, repeats))
    bar.close()
    return peaks, layers, no_tiles


def _no_tiles(target: InstaTarget, peaks: Peaks) -> str:
    """Why AMX tiles compute no layer for a target here, "" if they do."""
    from tvm_insta.schedules import back_end

    if back_end(target.tvm).uses_tiles() is None:
        return "the target has no amx-int8, amx-tile and avx512bw"
    try:
        amx.ask_permission([amx.TILES])
    except ArtefactError:
        return "the operating system refuses their use"
    return peaks.skipped.get(_AMX, "")


def _kernels(target: InstaTarget, *, tiles: bool) -> list[tuple[str, str, int, Any, Any]]:
    """Name, kind, multiply-adds, module and wished parameters of every layer."""
    from benchmarks.kernels import binary_layer, float_layer, tiled_layer
    from tvm_insta.schedules import ConvTiles, TileImage, TileWeights

    # What the weights are, and the image: without it written as bytes, a kernel expands it.
    forms = {
        "bits": (TileWeights.BITS, TileImage.BITS, None),
        "bits ahead": (TileWeights.BITS, TileImage.BITS, ConvTiles(expand_ahead=3)),
        "bytes": (TileWeights.BYTES, TileImage.BITS, None),
        "bits, byte image": (TileWeights.BITS, TileImage.BYTES, None),
        "bytes, byte image": (TileWeights.BYTES, TileImage.BYTES, None),
    }

    found = []
    for side, channels in BINARY_LAYERS:
        macs = side * side * channels * channels * 9
        for label, epilogue in (("bare", False), ("fused", True)):
            name = f"{side}x{side}x{channels} 3x3 {label}"
            module = binary_layer(side, channels, target, epilogue)
            found.append((name, "binary", macs, module, None))
            if tiles:
                for form, (weights, image, wish) in forms.items():
                    module = tiled_layer(side, channels, epilogue, weights, image)
                    found.append((f"{name}, AMX, {form}", "tiles", macs, module, wish))
    for side, kernel, stride, inputs, outputs in FLOAT_LAYERS:
        macs = (side // stride) ** 2 * kernel**2 * inputs * outputs
        name = f"{side}x{side}x{inputs} {kernel}x{kernel} s{stride} to {outputs}"
        module = float_layer(side, kernel, stride, inputs, outputs, target)
        found.append((name, "float", macs, module, None))
    return found


def _time(
    text: str,
    target: InstaTarget,
    name: str,
    kind: str,
    macs: int,
    module: Any,
    wish: Any,
    peaks: Peaks,
    repeats: int,
) -> Layer:
    from benchmarks.kernels import time_kernel

    if kind == "tiles":
        peak = (_AMX, peaks.rates[_AMX])
    else:
        peak = peaks.best("popcount" if kind == "binary" else "fma", target.features)
    return Layer(text, name, kind, macs, *time_kernel(module, target, repeats, wish), *peak)


def report(
    processor: str, peaks: Peaks, layers: Sequence[Layer], no_tiles: Mapping[str, str] | None = None
) -> str:
    """The tables that are printed: the peaks, and one table of layers per target."""
    lines = [f"{processor}, 1 thread; peaks in registers ({peaks.compiler}), GMAC/s:", ""]
    lines += ["| probe | GMAC/s |", "| --- | ---: |"]
    lines += [f"| {name} | {_rate(rate)} |" for name, rate in peaks.rates.items()]
    lines += [f"| {name} | - ({reason}) |" for name, reason in peaks.skipped.items()]
    vnni = "vnni_512" if "vnni_512" in peaks.rates else "vnni_256"
    others = [name for name in (_AMX, vnni) if name in peaks.rates]
    for target in dict.fromkeys(layer.target for layer in layers):
        columns = ["median us", "best us", "GMAC/s", "best", "of peak", "peak"]
        columns += [f"of {name}" for name in others]
        lines += ["", f"| {target} | {' | '.join(columns)} |"]
        lines.append("| --- |" + " ---: |" * len(columns))
        for layer in [layer for layer in layers if layer.target == target]:
            cells = [f"{layer.median_us:.1f}", f"{layer.best_us:.1f}"]
            cells += [_rate(layer.gmacs), _rate(layer.best_gmacs)]
            cells += [f"{layer.gmacs / layer.peak_gmacs:.0%}", layer.peak]
            for name in others:
                share = f"{layer.gmacs / peaks.rates[name]:.0%}"
                cells.append("" if layer.kind == "float" else share)
            lines.append(f"| {layer.name} | {' | '.join(cells)} |")
        if target in (no_tiles or {}):
            lines += ["", f"No binary layer of {target} in AMX tiles: {(no_tiles or {})[target]}."]
    return "\n".join(lines)


def _rate(gmacs: float) -> str:
    return f"{gmacs:.1f}" if gmacs < 200 else f"{gmacs:.0f}"


if __name__ == "__main__":
    sys.exit(main())
