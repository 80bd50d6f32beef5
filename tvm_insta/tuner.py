"""A network's kernels, tuned: the library behind ``python -m tvm_insta.tune``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tvm
from torch import nn

from tvm_insta.compiler import layers_of_kernels
from tvm_insta.errors import LogError, ToolchainError, TuneError
from tvm_insta.frontend import import_torch
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.target import InstaTarget, parse
from tvm_insta.tuning import meta as metas
from tvm_insta.tuning.log import TuningLog, folder_of, locked, new_meta
from tvm_insta.tuning.options import Progress, SweepOptions
from tvm_insta.tuning.peak import measure_peak
from tvm_insta.tuning.runner import Runner
from tvm_insta.tuning.runners import RUNNERS, RunnerOptions, make_runner
from tvm_insta.tuning.state import TaskState
from tvm_insta.tuning.sweep import run_sweep
from tvm_insta.tuning.tasks import Task, extract_tasks, select

Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneOptions:
    """Options of one sweep.

    Attributes:
        target: target string, preset or JSON, see `tvm_insta.target.parse`.
        log_dir: folder of logs; the records go to the target's folder in it.
        layer: shell pattern of layer names, None for all.
        runner: one of `tuning.runners.RUNNERS`.
        runners: what the runner needs to know.
        sweep: limits and search.
    """

    target: str = "native"
    log_dir: Path = Path("autotune_logs")
    layer: str | None = None
    runner: str = "local"
    runners: RunnerOptions = field(default_factory=RunnerOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)

    def __post_init__(self) -> None:
        if self.runner not in RUNNERS:
            raise TuneError(
                f"got runner {self.runner!r}, but it must be one of {', '.join(RUNNERS)}"
            )


@dataclass(frozen=True)
class Tuned:
    """What a sweep found.

    Attributes:
        folder: of the records.
        meta: as in the folder's meta.json.
        states: one per task of this sweep.
    """

    folder: Path
    meta: metas.Meta
    states: list[TaskState]


def network_tasks(module: nn.Module, example: torch.Tensor, target: InstaTarget) -> list[Task]:
    """The tasks of a PyTorch network: what the compiler would schedule, with layer names.

    Raises:
        InstaError: the network cannot be imported.
    """
    imported = import_torch(module, [example], max_batch=64, dynamic=True)
    fused = run_pipeline(imported, target, last="fuse")
    return extract_tasks(fused.mod, target, layers_of_kernels(fused))


def tune(
    module: nn.Module,
    example: torch.Tensor,
    options: TuneOptions,
    progress: Progress,
    *,
    say: Say = print,
) -> Tuned:
    """Tune a network's kernels for a target; every trial is on disk when it is made.

    Args:
        module: the network, in eval mode.
        example: one input, batch 1.
        options: see `TuneOptions`.
        progress: is told what happens.
        say: takes sentences for people.

    Raises:
        InstaError: the network, the target, an option or the log cannot be used.
    """
    target = parse(options.target)
    runner = make_runner(options.runner, target, options.runners)
    try:
        tasks = select(network_tasks(module, example, target), options.layer)
        return tune_tasks(tasks, target, runner, options, progress, say=say)
    finally:
        runner.close()


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
        ("target", about.target, target.canonical),
        ("unit", about.unit, runner.unit),
        ("number of threads", about.threads, threads),
        ("CPU", about.cpu, runner.cpu),
    ):
        if made != asked:
            raise LogError(
                f"{folder} holds records of the {what} {made!r}, this sweep would add some of "
                f"{asked!r}: name another folder with --log-dir"
            )
    if about.peak is None and runner.name == "local":
        try:
            about = dataclasses.replace(about, peak=measure_peak(target.features))
        except ToolchainError as error:
            say(f"no share of the peak will be shown: {error}")
    return about
