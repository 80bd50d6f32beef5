"""``python -m benchmarks.onnx_files FILE.onnx ...``: our artefacts beside ONNX Runtime.

ONNX Runtime runs the float form of the same file: its quantisers as standard operators, its weights
as floats, with all optimisations. Both run one image on the same threads in turns, in one process;
a turn is several runs, and its time their median. Inputs are bound before the clock starts, for
both. The classes of both are compared first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tvm_insta
from benchmarks import common
from benchmarks.turns import take_turns
from tvm_insta import cli
from tvm_insta.compiler import onnx_model
from tvm_insta.errors import InputError

Array = npt.NDArray[Any]
_CHECKED = 8
OURS, THEIRS = "tvm_insta", "onnxruntime"


class Session:
    """A session of ONNX Runtime as something that takes turns."""

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.names = [each.name for each in self.session.get_inputs()]

    def __call__(self, image: Sequence[Array]) -> list[Array]:
        """The outputs for one image."""
        found: list[Array] = self.session.run(None, dict(zip(self.names, image, strict=True)))
        return found

    def benchmark(self, image: Any, *, warmup: int, repeat: int) -> npt.NDArray[np.float64]:
        """Time single runs; seconds."""
        binding = self.session.io_binding()
        for name, array in zip(self.names, image, strict=True):
            binding.bind_cpu_input(name, array)
        for each in self.session.get_outputs():
            binding.bind_output(each.name)
        seconds = []
        for index in range(warmup + repeat):
            start = time.perf_counter()
            self.session.run_with_iobinding(binding)
            if index >= warmup:
                seconds.append(time.perf_counter() - start)
        return np.array(seconds)


class Ours:
    """An artefact with several inputs as something that takes turns."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def benchmark(self, image: Any, *, warmup: int, repeat: int) -> npt.NDArray[np.float64]:
        """Time single runs; seconds."""
        found: npt.NDArray[np.float64] = self.module.benchmark(*image, warmup=warmup, repeat=repeat)
        return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="benchmarks.onnx_files",
        description="Time ONNX files as compiled by tvm_insta and in ONNX Runtime, in turns.",
    )
    result.add_argument("files", nargs="+", type=Path, metavar="FILE.onnx")
    result.add_argument("--target", default="native", help="of the compile command")
    result.add_argument("--form", default="c", choices=common.FORMS, help="of our artefacts")
    result.add_argument("--threads", type=int, default=1, help="of one run")
    result.add_argument("--rounds", type=int, default=50, help="turns of each that are kept")
    common.add_output_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_measure, parser(), argv)


def _measure(args: argparse.Namespace) -> int:
    common.check_arguments(args, threads=1, rounds=1)
    for path in args.files:
        if not path.is_file():
            raise InputError(f"{path} is no file: give the path of an .onnx model")
    cores = common.choose_cores(None, args.threads)
    rows = []
    with common.pinned(cores), tempfile.TemporaryDirectory() as folder:
        for index, path in enumerate(args.files):
            seconds = _one(path, args, Path(folder) / str(index))
            rows.append({"file": path.stem, "seconds": seconds})
            print(_row(rows[-1]), flush=True)
    head = common.record(
        target=args.target,
        form=args.form,
        threads=args.threads,
        rounds=args.rounds,
        load=list(os.getloadavg()),
        versions=common.versions("onnxruntime", "onnx", "apache-tvm", "tvm-insta"),
    )
    common.write(args, {**head, "rows": rows}, table(rows, head))
    return 0


def _one(path: Path, args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of each turn by engine.

    Raises:
        InputError: the engines do not give the same classes.
    """
    from tvm_insta.frontend.onnx.write import export

    network = onnx_model.network(path)
    plain = export(network.module, network.examples, quantised_weights=False)
    tvm_insta.build_onnx(path, args.target, runtime=args.form, max_batch=1, out_dir=folder)
    module = tvm_insta.load(folder, threads=args.threads)
    session = Session(plain.SerializeToString(), args.threads)
    generator = np.random.default_rng(0)
    images = [
        [generator.standard_normal(tuple(x.shape), dtype=np.float32) for x in network.examples]
        for _ in range(_CHECKED)
    ]
    for image in images:
        ours, theirs = module(*image), session(image)
        ours = ours if isinstance(ours, tuple) else (ours,)
        for a, b in zip(ours, theirs, strict=True):
            if a.shape != b.shape or int(a.argmax()) != int(b.argmax()):
                raise InputError(f"{path}: the engines do not give the same classes")
    engines: Mapping[str, Any] = {OURS: Ours(module), THEIRS: session}
    return take_turns(engines, dict.fromkeys(engines, images[0]), args.rounds)


def table(rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> str:
    """The results as a Markdown table; microseconds."""
    load = ", ".join(f"{value:.1f}" for value in head["load"])
    lines = [
        f"{head['cpu']}, {head['threads']} thread(s), {head['form']} form, {head['rounds']} "
        f"rounds, load {load}. Microseconds: median (best).",
        "",
        "| file | tvm_insta | ONNX Runtime, float | times |",
        "| --- | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *map(_row, rows)])


def _row(row: Mapping[str, Any]) -> str:
    cells = []
    medians = []
    for name in (OURS, THEIRS):
        values = 1e6 * np.asarray(row["seconds"][name])
        medians.append(float(np.median(values)))
        cells.append(f"{medians[-1]:.1f} ({values.min():.1f})")
    return f"| {row['file']} | {cells[0]} | {cells[1]} | {medians[1] / medians[0]:.1f} |"


if __name__ == "__main__":
    sys.exit(main())
