"""Progress of long work: a line that rewrites itself, or plain lines into a file."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class StepBar:
    """Progress over named steps: one line that rewrites itself, or plain lines into a file.

    Attributes:
        steady: all steps take about the same time, so that the rest can be estimated.
        stream: where to write.
        started: `time.perf_counter` at the start.
        width: of the last line.
    """

    steady: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.perf_counter)
    width: int = 0

    def __call__(self, step: str, number: int, total: int) -> None:
        """Say that step ``number`` of ``total`` begins."""
        elapsed = time.perf_counter() - self.started
        text = f"[{number}/{total}] {step} ({elapsed:.1f} s)"
        if self.steady and number > 1:
            rest = elapsed / (number - 1) * (total - number + 1)
            text = f"[{number}/{total}] {step} ({elapsed:.1f} s, about {rest:.0f} s to go)"
        if self.stream.isatty():
            done = 20 * (number - 1) // total
            text = f"|{'#' * done}{'.' * (20 - done)}| {text}"
        if self.stream.isatty():
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line."""
        if self.stream.isatty() and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
