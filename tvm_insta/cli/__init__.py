"""What the command lines share: errors as one sentence, progress, and the choice of a model."""

from __future__ import annotations

import argparse
import io
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TextIO

from tvm_insta.cli.progress import StepBar
from tvm_insta.errors import InstaError, plain

__all__ = ["INTERRUPTED", "PIPE_CLOSED", "StepBar", "execute"]

INTERRUPTED = 130
PIPE_CLOSED = 141
"""As a shell says of a program that SIGPIPE ends: nobody reads its output any more."""


def execute(
    main: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
    """Parse ``argv`` and run ``main``; a mendable error becomes one sentence and exit code 2.

    Where the reader of the output has gone, as in ``... | head``, it ends without a word.
    """
    try:
        try:
            return _execute(main, parser, argv)
        finally:
            sys.stdout.flush()  # at the end of the program Python would show a traceback
    except BrokenPipeError:
        for stream in filter(_reader_has_gone, (sys.stdout, sys.stderr)):
            unread = os.open(os.devnull, os.O_WRONLY)
            os.dup2(unread, stream.fileno())
            os.close(unread)
        return PIPE_CLOSED


def _execute(
    main: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
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
        broken = isinstance(error, BrokenPipeError)
        if broken and any(map(_reader_has_gone, (sys.stdout, sys.stderr))):
            raise
        if args.verbose:
            traceback.print_exc()
        place = f" {error.filename}" if error.filename else ""
        print(f"{parser.prog}: error: {error.strerror}{place}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED


def _reader_has_gone(stream: TextIO) -> bool:
    """Whether the stream is a pipe that nobody reads; another pipe may be broken as well."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):  # not a file: a test's, or closed
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
