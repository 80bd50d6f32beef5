"""A sweep on the screen: a bar for the sweep and one per task, or plain lines into a file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.state import TaskState

_WIDTH = 20
_EVERY = 8  # trials between two plain lines


class SweepBar:
    """See `options.Progress`.

    Args:
        unit: of the figures, see `runner.Runner`.
        stream: where to write.
        clock: seconds.
    """

    def __init__(
        self,
        unit: str = "seconds",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._states: Sequence[TaskState] = ()
        self._trials: int | None = None
        self._seconds: float | None = None
        self._phase = ""
        self._started = clock()
        self._measured = 0
        self._told = 0
        self._drawn = 0

    def begin(self, states: Sequence[TaskState], trials: int | None, seconds: float | None) -> None:
        """See `options.Progress.begin`."""
        self._states, self._trials, self._seconds = states, trials, seconds
        self._started = self._clock()

    def phase(self, text: str) -> None:
        """See `options.Progress.phase`."""
        self._phase = text
        if not self._stream.isatty():
            self._line(self._sweep_text())
        else:
            self._draw(None)

    def trial(self, state: TaskState, outcome: Outcome, *, measured: bool) -> None:
        """See `options.Progress.trial`."""
        self._measured += measured
        if self._stream.isatty():
            self._draw(state)
            return
        self._told += 1
        improved = len(state.curve) < 2 or state.curve[-1] < state.curve[-2]
        if outcome.error and measured:
            self._line(f"{state.task.label}: a candidate failed: {outcome.error}")
        if improved or self._told % _EVERY == 0:
            self._line(f"{self._sweep_text()} {self.task_text(state)}")

    def close(self) -> None:
        """Leave the screen as it is, below the bars."""
        self._drawn = 0

    def task_text(self, state: TaskState) -> str:
        """One task in words: its best rate, and the share of the peak."""
        best = min(state.curve, default=float("inf"))
        text = f"{state.task.label}: {len(state.curve)} of {len(state.task.choices)} choices"
        if best == float("inf"):
            return text
        rate = state.gmacs(best)
        per = "s" if self._unit == "seconds" else self._unit.removesuffix("s")
        if rate is not None and self._unit == "seconds":
            text += (
                f", best {rate:.0f} GMAC/{per}" if rate >= 10 else f", best {rate:.2g} GMAC/{per}"
            )
        elif rate is not None:
            text += f", best {rate:.1f} MAC/{per}"
        if rate is not None and state.peak:
            text += f" ({rate / state.peak:.0%} of the peak)"
        return text

    def _sweep_text(self) -> str:
        tried = sum(state.tried for state in self._states)
        of = "" if self._trials is None else f"/{self._trials}"
        gone = self._clock() - self._started
        rest = self._rest(tried, gone)
        to_go = "" if rest is None else f", about {rest:.0f} s to go"
        return f"[{tried}{of}] {self._phase} ({gone:.0f} s{to_go})"

    def _rest(self, tried: int, gone: float) -> float | None:
        """Seconds to go: by the rate of the trials that were measured now, or by the clock."""
        limits = []
        if self._seconds is not None:
            limits.append(max(0.0, self._seconds - gone))
        if self._trials is not None and self._measured:
            limits.append(gone / self._measured * max(0, self._trials - tried))
        return min(limits, default=None)

    def _done(self) -> float:
        """Share of the sweep, 0 to 1."""
        shares = [0.0]
        if self._trials:
            shares.append(sum(state.tried for state in self._states) / self._trials)
        if self._seconds:
            shares.append((self._clock() - self._started) / self._seconds)
        return min(1.0, max(shares))

    def _draw(self, active: TaskState | None) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [f"{_bar(self._done())} {self._sweep_text()}"]
        shown = self._states if len(self._states) + 2 <= rows else [active] if active else []
        for state in shown:
            mark = ">" if state is active else " "
            share = len(state.curve) / len(state.task.choices)
            lines.append(f"{_bar(share)}{mark}{self.task_text(state)}")
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(up + "".join(f"\x1b[2K{line[: columns - 1]}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _bar(share: float) -> str:
    done = int(_WIDTH * share)
    return f"|{'#' * done}{'.' * (_WIDTH - done)}|"
