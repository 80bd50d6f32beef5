"""Progress of a run: a line that rewrites itself on a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

# Rewriting a terminal's line more often than this cannot be seen.
_INTERVAL = 0.2


@dataclass
class Progress:
    """Says how far a run is, how well it does, and about how long the rest takes.

    Attributes:
        total: Epochs of the run.
        stream: Where to write.
        started: `time.monotonic` after the first batch.
        width: Of the line on the terminal.
    """

    total: int
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)
    width: int = 0
    _shown: float = 0.0
    _begun: float | None = None

    def batch(self, epoch: float, loss: float, accuracy: float) -> None:
        """Say how an epoch goes; shown on a terminal only.

        Args:
            epoch: Epochs that are done, with the share of the present one.
            loss: Mean over the present epoch so far.
            accuracy: Share of right answers in it so far.
        """
        now = time.monotonic()
        if self._begun is None:
            self._begun, self.started = epoch, now
        if not self.stream.isatty() or now - self._shown < _INTERVAL:
            return
        self._shown = now
        done = int(20 * epoch / self.total)
        text = (
            f"|{'#' * done}{'.' * (20 - done)}| epoch {int(epoch) + 1}/{self.total}, "
            f"loss {loss:.3f}, accuracy {accuracy:.1%}{self._rest(epoch)}"
        )
        self._write(text)

    def part(self, what: str, done: int, total: int) -> None:
        """Say how far a part before the first epoch is; shown on a terminal only.

        Args:
            what: Its name.
            done: Of it.
            total: Of it.
        """
        now = time.monotonic()
        if self.stream.isatty() and (now - self._shown >= _INTERVAL or done == total):
            self._shown = now
            self._write(f"{what}: {done}/{total}")

    def line(self, text: str, epoch: float | None = None) -> None:
        """Write a line that stays.

        Args:
            text: Without the line's end.
            epoch: Epochs that are done; given, the rest is estimated.
        """
        rest = "" if epoch is None else self._rest(epoch)
        self.clear()
        self.stream.write(text + rest + "\n")
        self.stream.flush()

    def clear(self) -> None:
        """Take the rewritten line away."""
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.width = 0
            self.stream.flush()

    def _write(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self.width))
        self.width = len(text)
        self.stream.flush()

    def _rest(self, epoch: float) -> str:
        begun = 0.0 if self._begun is None else self._begun
        if epoch <= begun or epoch >= self.total:
            return ""
        rest = (time.monotonic() - self.started) / (epoch - begun) * (self.total - epoch)
        return f", about {_duration(rest)} to go"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
