"""Curves of training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tvm_insta.errors import TrainError
from tvm_insta.train.history import Row


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be drawn, before a run that takes long.

    Args:
        path: Where it is to be written.

    Raises:
        TrainError: matplotlib is missing, or the folder does not exist.
    """
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise TrainError(
            'matplotlib is not installed: pip install "tvm-insta[train]", or leave --plot out'
        ) from error
    if not path.absolute().parent.is_dir():
        raise TrainError(f"{path} cannot be written: create the folder {path.parent} first")


def plot(runs: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw loss and accuracy of runs over their epochs.

    Args:
        runs: Logs by name.
        path: PNG, SVG or PDF file.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for index, (name, rows) in enumerate(runs.items()):
        colour = f"C{index}"
        epochs = [row.epoch for row in rows]
        left.plot(epochs, [row.loss for row in rows], color=colour, label=name)
        right.plot(
            epochs,
            [100 * row.train_accuracy for row in rows],
            color=colour,
            linestyle=":",
            label=f"{name}, distorted training images",
        )
        tested = [row for row in rows if row.test_accuracy is not None]
        right.plot(
            [row.epoch for row in tested],
            [100 * (row.test_accuracy or 0.0) for row in tested],
            color=colour,
            marker="o",
            label=f"{name}, test images",
        )
        last_real = max((row.epoch for row in rows if row.weights == "real"), default=0)
        if index == 0 and last_real:
            for axes in (left, right):
                axes.axvline(last_real + 0.5, color="0.6", linewidth=0.8)
            left.annotate(
                "binary weights",
                (last_real + 0.5, 1.0),
                xytext=(4, -4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                verticalalignment="top",
                color="0.4",
            )
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="right answers, %")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="0.9")
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
