"""What the command lines share: errors as one sentence, progress, and the choice of a model."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from tvm_insta.cli.progress import StepBar
from tvm_insta.errors import InstaError, plain

__all__ = ["INTERRUPTED", "StepBar", "execute"]

INTERRUPTED = 130


def execute(
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
