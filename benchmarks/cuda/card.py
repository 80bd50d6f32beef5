"""A card: artefacts, validation and measurements, in the order of their worth, within a budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import common
from benchmarks.cuda.counts import compile_network
from benchmarks.cuda.engines import ENGINES, Task

_LEAST_SECONDS = 15.0
"""Less than this is not begun with: loading the libraries takes most of it."""

_MOST_SECONDS = 150.0
"""Of one engine: torch.compile takes about a minute for a network and a batch."""

_VALIDATED = 4  # inputs


class Budget:
    """Seconds that are left of a limit."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock, self._start, self._seconds = clock, clock(), seconds

    @property
    def gone(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return max(0.0, self._seconds - self.gone)

    def slice(self) -> float:
        """Seconds for one more engine; 0 where it is not worth a beginning."""
        return min(self.left, _MOST_SECONDS) if self.left >= _LEAST_SECONDS else 0.0


@dataclass(frozen=True)
class Settings:
    """What is measured: networks, batches in order of their worth, variant, and the card."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    variant: str
    arch: str


@dataclass(frozen=True)
class Validation:
    """What the validate command said of an artefact on the card."""

    model: str
    valid: bool
    said: str


@dataclass(frozen=True)
class Measurement:
    """One engine on one network and batch; a reason where there are no figures.

    Attributes:
        p10, median, p90: milliseconds of a call, from images on the card to logits on the card.
        runs: how many.
    """

    model: str
    batch: int
    engine: str
    p10: float | None = None
    median: float | None = None
    p90: float | None = None
    runs: int = 0
    reason: str = ""

    @property
    def images_per_second(self) -> float | None:
        """By the median."""
        return None if self.median is None else 1e3 * self.batch / self.median


@dataclass
class Measured:
    """Everything that was found."""

    validations: list[Validation] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)


def measure_all(settings: Settings, folder: Path, budget: Budget) -> Measured:
    """Compile, validate and measure until the budget is gone; what is left out is listed."""
    found = Measured()
    artefacts: dict[str, Path | str] = {}
    for model in settings.models:
        artefacts[model] = _compiled(settings, model, folder, budget)
        artefact = artefacts[model]
        if isinstance(artefact, Path):
            found.validations.append(_validated(model, artefact, budget))
    for model in settings.models:
        for batch in settings.batches:
            for engine in ENGINES:
                found.measurements.append(_measured(model, batch, engine, artefacts[model], budget))
    return found


def _compiled(settings: Settings, model: str, folder: Path, budget: Budget) -> Path | str:
    """The artefact, or why there is none."""
    if not budget.slice():
        return "the time was over before it was compiled"
    try:
        most = max(settings.batches)
        return compile_network(model, settings.variant, settings.arch, folder, max_batch=most)
    except common.WorkerError as error:
        return str(error)


def _validated(model: str, artefact: Path, budget: Budget) -> Validation:
    command = [sys.executable, "-m", "tvm_insta.validate", str(artefact), "--device", "cuda"]
    command += ["--inputs", str(_VALIDATED)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=common.ROOT,
            timeout=max(budget.slice(), 1.0),
        )
    except subprocess.TimeoutExpired:
        return Validation(model, False, "took too long")
    text = (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip()
    return Validation(model, done.returncode == 0, text.splitlines()[-1] if text else "no message")


def _measured(
    model: str, batch: int, engine: str, artefact: Path | str, budget: Budget
) -> Measurement:
    nothing = Measurement(model, batch, engine)
    if ENGINES[engine].ours and isinstance(artefact, str):
        return Measurement(model, batch, engine, reason=artefact)
    seconds = budget.slice()
    if not seconds:
        return Measurement(model, batch, engine, reason="not measured: the time was over")
    task = Task(engine, model, batch, "" if isinstance(artefact, str) else str(artefact))
    try:
        answer = common.run_worker(
            ["-m", "benchmarks.cuda.engines", json.dumps(asdict(task))],
            threads=4,
            cores=(),
            python=sys.executable,
            timeout=seconds,
        )
    except common.WorkerError as error:
        return Measurement(model, batch, engine, reason=str(error))
    if answer["reason"]:
        return Measurement(model, batch, engine, reason=answer["reason"])
    p10, median, p90 = common.percentiles(answer["ms"])
    return Measurement(nothing.model, batch, engine, p10, median, p90, runs=len(answer["ms"]))
