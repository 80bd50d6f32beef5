"""What the command lines share: errors as one sentence, progress, and the choice of a model."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from tvm_insta.errors import InstaError, plain

INTERRUPTED = 130


def run(
    main: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
    """Parse ``argv`` and run ``main``; a mendable error becomes one sentence and exit code 2."""
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say more, and show tracebacks of errors"
    )
    for stream in (sys.stdout, sys.stderr):
        # A file's name may hold what the encoding of the terminal does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING, format="%(message)s"
    )
    try:
        return main(args)
    except (InstaError, ImportError) as error:
        if args.verbose:
            traceback.print_exc()
        print(f"{parser.prog}: error: {plain(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if args.verbose:
            traceback.print_exc()
        place = f" {error.filename}" if error.filename else ""
        print(f"{parser.prog}: error: {error.strerror}{place}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED


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
