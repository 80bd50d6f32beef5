"""Pictures of recorded results: latency of one image beside the peers'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import input_shape
from benchmarks.results import Result, ratio
from tvm_insta.errors import InputError

OURS, PEER = "#c8102e", "#9aa5b1"


def draw(results: Sequence[Result], processor: str, path: Path) -> None:
    """Bars of the medians and their ratios to ours, a panel per network and number of threads.

    Larger batches than 1 are left out.

    Raises:
        InputError: matplotlib is not installed, or no single image was measured.
    """
    pyplot = _pyplot()
    measured = [r for r in results if r.median is not None and r.batch == 1]
    if not measured:
        raise InputError(
            "no single image was measured, so nothing can be plotted: leave --plot out"
        )
    models = list(dict.fromkeys(result.model for result in measured))
    threads = sorted({result.threads for result in measured})
    most = len({result.engine for result in measured})
    figure, panels = pyplot.subplots(
        len(threads),
        len(models),
        figsize=(6.0 * len(models), (0.8 + 0.24 * most) * len(threads)),
        squeeze=False,
        layout="constrained",
    )
    for row, count in zip(panels, threads, strict=True):
        for panel, model in zip(row, models, strict=True):
            shown = [r for r in measured if (r.model, r.threads) == (model, count)]
            shown.sort(key=lambda result: -(result.median or 0))
            bars = panel.barh(
                [result.engine for result in shown],
                [result.median for result in shown],
                color=[OURS if result.ours else PEER for result in shown],
            )
            panel.bar_label(bars, [_label(r, measured) for r in shown], padding=3, fontsize=8)
            side = input_shape(model)[-1]
            panel.set_title(f"{model}, {side}x{side}, batch 1", fontsize=10)
            panel.set_xlabel(f"ms, {count} thread{'s' * (count > 1)} (median)", fontsize=9)
            panel.tick_params(labelsize=8)
            panel.margins(x=0.25)
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Latency on {processor}, and times the best of ours", fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


SUMMARY = {
    "tvm_insta c, stem=int8 calibrate=random (binary)": "tvm_insta, 8-bit stem",
    "tvm_insta c (binary)": "tvm_insta",
    "OpenVINO int8": "OpenVINO int8",
    "ONNX Runtime int8": "ONNX Runtime int8",
    "LiteRT int8": "LiteRT int8",
    "torch.compile bf16": "torch.compile bf16",
    "ONNX Runtime fp32": "ONNX Runtime float32",
    "Larq CE, indirect BGEMM + XNNPACK (binary)": "Larq Compute Engine",
}
"""The engines of the README's picture, and what they are called there: a user's choices."""


def summary(results: Sequence[Result], path: Path, model: str = "resnet18") -> None:
    """Bars of one image, one network, one thread: ours and the peers that a user would pick.

    Raises:
        InputError: matplotlib is not installed, or none of these engines was measured.
    """
    pyplot = _pyplot()
    row = (model, 1, 1)
    shown = [r for r in results if (r.model, r.batch, r.threads) == row and r.median is not None]
    shown = sorted((r for r in shown if r.engine in SUMMARY), key=lambda r: -(r.median or 0))
    if not shown:
        raise InputError(f"no engine of the summary ran one image of {model} with one thread")
    figure, panel = pyplot.subplots(figsize=(8.0, 0.6 + 0.33 * len(shown)), layout="constrained")
    bars = panel.barh(
        [SUMMARY[result.engine] for result in shown],
        [result.median for result in shown],
        color=[OURS if result.ours else PEER for result in shown],
    )
    panel.bar_label(bars, [f"{result.median:.1f} ms" for result in shown], padding=4, fontsize=10)
    panel.tick_params(labelsize=10, length=0)
    panel.set_xticks([])
    panel.margins(x=0.1)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise InputError(f"{error}: install matplotlib (the extra bench) for plots") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _label(result: Result, results: Sequence[Result]) -> str:
    times = ratio(result, results)
    return f"{result.median:.2f}" + (f" ({times:.2f}x)" if times else "")
