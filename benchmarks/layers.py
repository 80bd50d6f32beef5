"""Single layers of ResNet-18 on one thread, beside the peak of this core in the same run.

    python -m benchmarks.layers [--json FILE] [--repeats N]

Binary 3x3 layers run bare (packed data in, int32 out) and with the whole epilogue of a block (cast,
scale, bias, residual, shift, PReLU, shift) fused behind them; the float stem is 7x7 with stride 2.
The kernels are those of the plain-C form: the same schedules with serial loops.
The peak is what peak.c reaches in registers alone: no kernel can be faster. Every figure is the
median over the repeats; the fastest repeat stands beside it, because other work on the machine only
ever makes a repeat slower.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_insta.errors import InstaError
from tvm_insta.tuning.peak import Peak, measure_peak

# (image side, channels) of the binary 3x3 layers of ResNet-18, 115.6 million MACs each.
BINARY_LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512))


@dataclass(frozen=True)
class Layer:
    """One measured layer.

    Attributes:
        name: shape and kind.
        kind: "binary" or "float".
        macs: multiply-adds per run.
        median_us: median time of a run, microseconds.
        best_us: fastest repeat, microseconds.
        peak_gmacs: the peak that the layer is measured against.
    """

    name: str
    kind: str
    macs: int
    median_us: float
    best_us: float
    peak_gmacs: float

    @property
    def gmacs(self) -> float:
        """1e9 multiply-adds per second at the median."""
        return self.macs / self.median_us / 1e3

    @property
    def best_gmacs(self) -> float:
        """1e9 multiply-adds per second of the fastest repeat."""
        return self.macs / self.best_us / 1e3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    parser.add_argument("--repeats", type=int, default=30, metavar="N", help="default 30")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; pass 1 or more")
    # Before TVM is loaded: it reads the number of threads once.
    os.environ["TVM_NUM_THREADS"] = "1"
    try:
        peak, layers = measure(options.repeats)
        print(report(peak, layers))
        if options.json:
            write_json(options.json, peak, layers)
    except InstaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {options.json}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def measure(repeats: int) -> tuple[Peak, list[Layer]]:
    """Measure the peak, then every layer."""
    from benchmarks.kernels import binary_layer as binary
    from benchmarks.kernels import host, stem, time_kernel

    target, features = host()
    peak = measure_peak(features)
    layers = []
    for side, channels in BINARY_LAYERS:
        macs = side * side * channels * channels * 9
        for label, epilogue in (("bare", False), ("fused", True)):
            times = time_kernel(binary(side, channels, target, epilogue), target, repeats)
            name = f"{side}x{side}x{channels} 3x3 {label}"
            layers.append(Layer(name, "binary", macs, *times, peak.binary_gmacs))
    times = time_kernel(stem(target), target, repeats)
    name = "224x224x3 7x7 s2 to 64"
    layers.append(Layer(name, "float", 112 * 112 * 49 * 3 * 64, *times, peak.float_gmacs))
    return peak, layers


def report(peak: Peak, layers: Sequence[Layer]) -> str:
    """The table that is printed."""
    lines = [
        f"{cpu_name()}, 1 thread",
        f"peak in registers: {peak.binary_gmacs:.0f} binary GMAC/s "
        f"({peak.word_bits}-bit popcount), {peak.float_gmacs:.1f} float GMAC/s ({peak.compiler})",
        "",
        f"{'layer':28} {'median us':>10} {'best us':>9} {'GMAC/s':>8} {'best':>8} {'of peak':>8}",
    ]
    for layer in layers:
        digits = 0 if layer.kind == "binary" else 1
        lines.append(
            f"{layer.name:28} {layer.median_us:10.1f} {layer.best_us:9.1f} "
            f"{layer.gmacs:8.{digits}f} {layer.best_gmacs:8.{digits}f} "
            f"{layer.gmacs / layer.peak_gmacs:8.0%}"
        )
    return "\n".join(lines)


def write_json(path: Path, peak: Peak, layers: Sequence[Layer]) -> None:
    """Write the results: CPU, peak, and one object per layer."""
    entries: list[dict[str, Any]] = [{**asdict(layer), "gmacs": layer.gmacs} for layer in layers]
    result = {"cpu": cpu_name(), "threads": 1, "peak": asdict(peak), "layers": entries}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def cpu_name() -> str:
    """The CPU's own name and the model LLVM takes it for."""
    import tvm

    known_as = tvm.target.codegen.llvm_get_system_cpu()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({known_as})" if names else str(known_as)


if __name__ == "__main__":
    sys.exit(main())
