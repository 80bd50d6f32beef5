"""Tiny tasks, a runner that measures nothing, and a progress that says nothing."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax, tirx
from tvm.relax import TensorType

from tvm_insta import ops
from tvm_insta.compiler.tuner import TuneOptions, tune_tasks
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import back_end
from tvm_insta.target import parse
from tvm_insta.tuning.log import folder_of
from tvm_insta.tuning.options import SweepOptions
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.tasks import LayerOf, extract_tasks

NATIVE = parse("native")


def network(target=NATIVE, side=6, batch=1, words=False, relu=False):
    """A fused module: a float convolution, and a binary one that is called twice.

    The binary weight is in bytes where the target wants that and `words` are not asked for. With
    `relu` each convolution has one behind it.
    """
    lanes = target.lanes
    n = tirx.Var("n", "int64") if batch is None else batch
    out = max(2 * lanes, 16)
    own = back_end(target.tvm).binary_blocking(out, 1)
    narrow = not words and own is not None and own.dtype == "uint8"
    builder = relax.BlockBuilder()
    types = {
        "image": TensorType([n, side, side, 3], "float32"),
        "weight": TensorType([out // lanes, 3, 3, 3, lanes], "float32"),
        "bits": TensorType([n, side + 2, side + 2, 2], "uint32"),
        "words": TensorType([out // own.lanes, 3, 8, 3, own.lanes], "uint8")
        if narrow
        else TensorType([out // lanes, 3, 3, 2, lanes], "uint32"),
        "table": TensorType([3, 3, out], "int32"),
        "rows": TensorType([side], "int32"),
        "columns": TensorType([side], "int32"),
    }
    params = [relax.Var(name, ty) for name, ty in types.items()]
    image, weight, *binary = params
    with builder.function("main", params):
        with builder.dataflow():
            z = builder.emit(ops.bitserial_conv2d_blocked(*binary, alpha=1))
            y = builder.emit(ops.conv2d_blocked(image, weight, padding=[1, 1, 1, 1]))
            again = builder.emit(ops.bitserial_conv2d_blocked(*binary, alpha=1))
            if relu:
                y, z, again = (builder.emit(relax.op.nn.relu(each)) for each in (y, z, again))
            all_three = builder.emit_output(relax.Tuple([y, z, again]))
        builder.emit_func_output(all_three)
    return fuse(builder.get())


def tasks(target=NATIVE, **kwargs):
    """The tasks of `network`, the binary one first."""
    mod = network(target, **kwargs)
    names = [v.name_hint for v, f in mod.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    layers = {name: [LayerOf(f"net.{name}", 10_000)] for name in names}
    return extract_tasks(mod, target, layers)


class RecordedRunner:
    """Answers from a table of costs: the same ones whenever it is asked."""

    name, unit, cpu = "recorded", "seconds", "a table"

    def __init__(self, broken=lambda tiles: False, stop_after=None):
        self.measured = []
        self.finals = 0
        self.prepared = []
        self.broken, self.stop_after = broken, stop_after

    def prepare(self, task):
        self.prepared.append(task.key)

    def measure(self, task, candidates, repeats):
        for tiles in candidates:
            if repeats != 5:
                self.finals += 1
            else:
                if self.stop_after is not None and len(self.measured) >= self.stop_after:
                    raise KeyboardInterrupt
                self.measured.append((task.key, tiles))
            if why := self.broken(tiles):
                yield tiles, Outcome(error="run: it broke", device="table", wrong=why == "wrong")
            else:
                yield tiles, Outcome((cost(tiles),) * repeats, "table")

    def close(self):
        pass


def cost(tiles):
    """Seconds: best for two pixels and two vectors in bands of two rows."""
    off = abs(tiles.width_tile - 2) + abs(tiles.out_tile - 2) + abs(tiles.row_band - 2)
    return 1e-5 * (1 + off + 0.5 * tiles.unroll_taps)


class Silent:
    """Remembers what a sweep told it."""

    def __init__(self):
        self.trials = []
        self.phases = []

    def begin(self, states, trials, seconds):
        self.states = states

    def trial(self, state, outcome, *, measured):
        self.trials.append((state.task.key, outcome, measured))

    def phase(self, text):
        self.phases.append(text)


def sweep(logs: Path, runner, *, target=NATIVE, chosen=None, say=print, **options):
    """Tune `tasks` into a folder of logs."""
    chosen = tasks(target) if chosen is None else chosen
    # Three repeats in each round of the final comparison: the runner knows them from trials.
    limits = SweepOptions(final_repeats=9, **options)
    tuning = TuneOptions(target.text, logs, sweep=limits)
    return tune_tasks(chosen, target, runner, tuning, Silent(), say=say)


def folder(logs: Path, target=NATIVE) -> Path:
    return folder_of(logs, target)
