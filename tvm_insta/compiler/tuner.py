"""A network's kernels, tuned: the library behind ``python -m tvm_insta.tune``."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tvm
from torch import nn

from tvm_insta.compiler.kernel_variants import Form, measured_forms
from tvm_insta.compiler.model_inputs import random_samples
from tvm_insta.compiler.option_checks import check_options
from tvm_insta.compiler.options import AMX_WEIGHTS, BINARY, STEMS
from tvm_insta.errors import LogError, ToolchainError, TuneError
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.kernels import kernels_of_layers
from tvm_insta.passes.pipeline import Compiled, run_pipeline
from tvm_insta.schedules import CONVOLUTIONS, BinaryLayer, Measured, back_end
from tvm_insta.target import InstaTarget, parse
from tvm_insta.tuning import meta as metas
from tvm_insta.tuning.log import TuningLog, folder_of, locked, new_meta
from tvm_insta.tuning.options import Progress, SweepOptions
from tvm_insta.tuning.peak import measure_peak
from tvm_insta.tuning.runner import Runner
from tvm_insta.tuning.runners import RUNNERS, RunnerOptions, make_runner
from tvm_insta.tuning.state import TaskState
from tvm_insta.tuning.sweep import run_sweep
from tvm_insta.tuning.tasks import LayerOf, Task, extract_tasks, select
from tvm_insta.tuning.workload import without_host

Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneOptions:
    """Options of one sweep.

    Attributes:
        target: target string, preset or JSON, see `tvm_insta.target.parse`.
        log_dir: folder of logs; the records go to the target's folder in it.
        layer: shell pattern of layer names, None for all.
        stem: numbers of the float layers, as `CompileOptions.stem`.
        binary: form of the binary layers, as `CompileOptions.binary`; on a target with AMX, "auto"
            tunes both forms of each, and then the kernels of the network in the faster ones.
        amx_weights: weights of those in AMX tiles, as `CompileOptions.amx_weights`.
        runner: one of `tuning.runners.RUNNERS`.
        runners: what the runner needs to know.
        sweep: limits and search.
    """

    target: str = "native"
    log_dir: Path = Path("autotune_logs")
    layer: str | None = None
    stem: str = "fp32"
    binary: str = "auto"
    amx_weights: str = "auto"
    runner: str = "local"
    runners: RunnerOptions = field(default_factory=RunnerOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)

    def __post_init__(self) -> None:
        for name, known in (
            ("runner", RUNNERS),
            ("stem", STEMS),
            ("binary", BINARY),
            ("amx_weights", AMX_WEIGHTS),
        ):
            if getattr(self, name) not in known:
                raise TuneError(
                    f"got {name} {getattr(self, name)!r}, but it must be one of {', '.join(known)}"
                )


@dataclass(frozen=True)
class Tuned:
    """What a sweep found.

    Attributes:
        folder: of the records.
        meta: as in the folder's meta.json.
        states: one per task of this sweep.
        forms: binary layers that were measured in two forms.
    """

    folder: Path
    meta: metas.Meta
    states: list[TaskState]
    forms: tuple[Form, ...] = ()


class Network:
    """The kernels of a PyTorch network, as the compiler would make them.

    Args:
        module: in eval mode.
        examples: one tensor per input, batch 1.
        target: what to compile for.
        stem: numbers of the float layers; those in "int8" are calibrated with random inputs, for
            the scale of a layer does not change its kernel.
        max_batch: 1 for a network that takes one image only.
        amx_weights: weights of binary layers in AMX tiles, as `Context.amx_weights`.

    Raises:
        InstaError: the network cannot be imported, or the target lacks the stem's instructions.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[torch.Tensor] | torch.Tensor,
        target: InstaTarget,
        stem: str = "fp32",
        max_batch: int = 64,
        amx_weights: str = "auto",
    ) -> None:
        check_options(target, stem=stem, amx_weights=amx_weights)
        self.target, self.stem, self.amx_weights = target, stem, amx_weights
        examples = [examples] if isinstance(examples, torch.Tensor) else list(examples)
        self.samples = random_samples(examples) if stem == "int8" else []
        self.imported = import_torch(module, examples, max_batch=max_batch, dynamic=True)

    def kernels(
        self, binary: str = "auto", measured: Mapping[BinaryLayer, Measured] | None = None
    ) -> Compiled:
        """The kernels with binary layers in certain forms, see `Context`; not scheduled."""
        context = Context(
            self.target,
            float_dtype=self.stem,
            samples=self.samples,
            binary=binary,
            amx_weights=self.amx_weights,
            measured=measured or {},
        )
        return run_pipeline(self.imported, context, last="fuse")

    def tasks(self, fused: Compiled) -> list[Task]:
        """The tasks of `kernels`."""
        layers: dict[str, list[LayerOf]] = {}
        macs = {layer.name: layer.source.macs for layer in fused.report.layers}
        for layer, symbols in kernels_of_layers(fused.mod, fused.report):
            together = sum(macs[name] for name in layer.together or (layer.name,))
            for symbol in symbols:
                layers.setdefault(symbol, []).append(LayerOf(layer.name, together))
        return extract_tasks(fused.mod, self.target, layers)


def tune(
    module: nn.Module,
    examples: Sequence[torch.Tensor] | torch.Tensor,
    options: TuneOptions,
    progress: Progress,
    *,
    max_batch: int = 64,
    say: Say = print,
) -> Tuned:
    """Tune a network's kernels for a target; every trial is on disk when it is made.

    Args:
        module: the network, in eval mode.
        examples: one tensor per input, batch 1.
        options: see `TuneOptions`.
        progress: is told what happens.
        max_batch: 1 for a network that takes one image only.
        say: takes sentences for people.

    Raises:
        InstaError: the network, the target, an option or the log cannot be used.
    """
    target = parse(options.target)
    check_options(target, binary=options.binary)
    runner = make_runner(options.runner, target, options.runners)
    try:
        network = Network(
            module, examples, target, options.stem, max_batch, amx_weights=options.amx_weights
        )
        return tune_network(network, runner, options, progress, say=say)
    finally:
        runner.close()


def tune_network(
    network: Network, runner: Runner, options: TuneOptions, progress: Progress, *, say: Say = print
) -> Tuned:
    """As `tune`, for a network that was imported and a runner that the caller closes."""
    target = network.target
    tiles = back_end(target.tvm).uses_tiles() is not None
    if tiles and runner.unit != "seconds":
        say(f"AMX tiles are left out: {runner.unit} of runner {runner.name} do not say their time")
    elif tiles and options.binary == "auto":
        return _tune_forms(network, runner, options, progress, say)
    every = network.tasks(network.kernels(options.binary))
    tasks = [task for task in every if _can_measure(runner, task)]
    return tune_tasks(select(tasks, options.layer), target, runner, options, progress, say=say)


def _can_measure(runner: Runner, task: Task) -> bool:
    """Whether a runner's figures say anything of a task."""
    if task.tiles:
        return runner.unit == "seconds"
    # The model knows loops of multiply-accumulates.
    return runner.unit != "cycles" or task.rule in CONVOLUTIONS


_SHARE_OF_FORMS = 0.75
"""Of a sweep with two forms: the rest is for the network in the faster ones, where kernels between
a layer in tiles and one of popcounts are new."""


def _tune_forms(
    network: Network, runner: Runner, options: TuneOptions, progress: Progress, say: Say
) -> Tuned:
    """Tune every binary layer as popcounts and in tiles, then the network in the faster forms."""
    target, limits = network.target, options.sweep
    began = time.monotonic()
    forms = [network.kernels(form) for form in ("popcount", "amx")]
    both = {task.key: task for form in forms for task in network.tasks(form)}
    say("this target has AMX: binary layers are tuned as popcounts and in tiles")
    first = dataclasses.replace(
        limits,
        trials=None if limits.trials is None else math.ceil(_SHARE_OF_FORMS * limits.trials),
        minutes=None if limits.minutes is None else _SHARE_OF_FORMS * limits.minutes,
    )
    tasks = select(list(both.values()), options.layer)
    found = tune_tasks(
        tasks, target, runner, dataclasses.replace(options, sweep=first), progress, say=say
    )
    measured = measured_forms(forms[0], forms[1], target, options.log_dir)
    figures = {form.shape: form.figures for form in measured}
    faster = select(network.tasks(network.kernels(measured=figures)), options.layer)
    keys = {task.key for task in faster}
    gone = sum(state.tried for state in found.states if state.task.key not in keys)
    spent = (time.monotonic() - began) / 60
    rest = dataclasses.replace(
        limits,
        trials=None if limits.trials is None else max(1, limits.trials - gone),
        minutes=None if limits.minutes is None else max(1e-3, limits.minutes - spent),
        resume=True,
    )
    say("now the network with each binary layer in its faster form")
    last = tune_tasks(
        faster, target, runner, dataclasses.replace(options, sweep=rest), progress, say=say
    )
    # Once more, as the compiler will find them.
    return dataclasses.replace(
        last, forms=tuple(measured_forms(forms[0], forms[1], target, options.log_dir))
    )


def tune_tasks(
    tasks: list[Task],
    target: InstaTarget,
    runner: Runner,
    options: TuneOptions,
    progress: Progress,
    *,
    say: Say = print,
) -> Tuned:
    """As `tune`, for tasks that are known."""
    folder = folder_of(options.log_dir, target)
    with locked(folder):
        log = TuningLog(folder, repair=True)
        for message in log.messages:
            say(message)
        about = _about(folder, target, runner, options, say)
        about, states = run_sweep(tasks, target, runner, log, about, options.sweep, progress)
    return Tuned(folder, about, states)


def _about(
    folder: Path, target: InstaTarget, runner: Runner, options: TuneOptions, say: Say
) -> metas.Meta:
    """The log's meta data, made anew where there is none; refuses to mix what cannot be compared.

    Raises:
        LogError: the log is of another unit, or of other threads.
    """
    threads = options.runners.threads
    about = metas.read(folder)
    if about is None:
        about = new_meta(target, runner.name, runner.unit, threads, runner.cpu, tvm.__version__)
    for what, made, asked in (
        ("target", about.target, without_host(target)),
        ("unit", about.unit, runner.unit),
        ("number of threads", about.threads, threads),
        ("CPU", about.cpu, runner.cpu),
    ):
        if made != asked:
            raise LogError(
                f"{folder} holds records of the {what} {made!r}, this sweep would add some of "
                f"{asked!r}: name another folder with --log-dir"
            )
    if about.peak is None and runner.name == "local" and not back_end(target.tvm).device_code:
        try:
            about = dataclasses.replace(about, peak=measure_peak(target.features))
        except ToolchainError as error:
            say(f"no share of the peak will be shown: {error}")
    return about
