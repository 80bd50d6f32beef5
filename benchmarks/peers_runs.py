"""The runs of `benchmarks.peers`: every engine in a process of its own, in rounds."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.engines import Engine
from benchmarks.results import Result
from tvm_insta import cli


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        engines: the rows of the table.
        models: the networks.
        batches: images of a run.
        threads: numbers of threads.
        cores: of the largest number of threads; fewer threads take the first of them.
        pythons: interpreter by family; this one where a family is not named.
        rounds: how often each engine is started.
        repeat: runs that are timed in a round.
        warmup: seconds of untimed runs before them.
        timeout: seconds that a process may take.
    """

    engines: tuple[Engine, ...]
    models: tuple[str, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    cores: tuple[int, ...]
    pythons: Mapping[str, str]
    rounds: int
    repeat: int
    warmup: float
    timeout: float


@dataclass(frozen=True)
class Job:
    """What is prepared once: a network for batches of one size, by one engine."""

    model: str
    batch: int
    engine: Engine

    def __str__(self) -> str:
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"{self.model}{batch}, {self.engine.name}"


def measure_all(plan: Plan, folder: Path) -> tuple[list[Result], dict[str, dict[str, str]]]:
    """Prepare every engine, then measure in rounds.

    Args:
        plan: what and how.
        folder: empty; receives what the engines prepare.

    Returns:
        One result per network, batch, number of threads and engine, and the versions by family.
    """
    runs = [
        (Job(model, batch, engine), threads)
        for model in plan.models
        for batch in plan.batches
        for threads in plan.threads
        for engine in plan.engines
        if batch >= engine.least_batch
    ]
    jobs = list(dict.fromkeys(job for job, _ in runs))
    places = {job: folder / str(number) for number, job in enumerate(jobs)}
    steps = len(jobs) + plan.rounds * len(runs)
    bar, step = cli.StepBar(), 0
    versions: dict[str, dict[str, str]] = {}
    reasons: dict[Job, str] = {}
    for job in jobs:
        bar(f"prepare {job}", step := step + 1, steps)
        places[job].mkdir()
        answer = work(plan, job, max(plan.threads), do="prepare", folder=places[job])
        reasons[job] = answer["reason"]
        versions.setdefault(job.engine.family, {}).update(answer.get("versions", {}))
    found = {
        (job, threads): Result(
            job.engine.name, job.model, threads, reason=reasons[job], batch=job.batch
        )
        for job, threads in runs
    }
    times: dict[tuple[Job, int], list[list[float]]] = {key: [] for key in found}
    for index in range(plan.rounds):
        for key in runs if index % 2 == 0 else reversed(runs):
            job, threads = key
            bar(f"round {index + 1}: {job}, {threads} threads", step := step + 1, steps)
            if found[key].reason:
                continue
            answer = work(plan, job, threads, do="time", folder=places[job])
            if not answer["reason"]:
                times[key].append(answer["ms"])
            found[key] = replace(found[key], reason=answer["reason"], note=answer.get("note", ""))
    bar.close()
    return [
        result if result.reason else result.with_times(times[key]) for key, result in found.items()
    ], {family: have for family, have in versions.items() if have}


def work(plan: Plan, job: Job, threads: int, *, do: str, folder: Path) -> dict[str, Any]:
    """Let a worker "prepare" or "time" a job; its answer, or the reason why there is none."""
    engine = job.engine
    task = {
        **{"do": do, "family": engine.family, "mode": engine.mode, "options": engine.options},
        **{"model": job.model, "batch": job.batch, "folder": str(folder), "threads": threads},
        **{"repeat": plan.repeat, "warmup": plan.warmup},
    }
    try:
        answer: dict[str, Any] = common.run_worker(
            ["-m", "benchmarks.worker", json.dumps(task)],
            threads=threads,
            cores=plan.cores[:threads],
            python=plan.pythons.get(engine.family, sys.executable),
            timeout=plan.timeout,
        )
    except common.WorkerError as error:
        return {"reason": str(error)}
    return answer
