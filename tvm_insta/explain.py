"""``python -m tvm_insta.explain``: what became of every layer of an artefact, or of two."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tvm_insta import cli
from tvm_insta.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.explain",
        description="Say what became of every layer of an artefact; of two, what changed.",
    )
    result.add_argument("artefact", type=Path, help="folder that the compile command wrote")
    result.add_argument("other", type=Path, nargs="?", help="another one, to compare with")
    result.add_argument("--json", type=Path, help="write all of it here, see docs/explain.md")
    result.add_argument("--html", type=Path, help="write a page for a browser here")
    for name, whose in (("--times", "the artefact"), ("--other-times", "the other one")):
        result.add_argument(
            name, type=Path, metavar="JSON", help=f"what bench --layers --json wrote of {whose}"
        )
    result.add_argument(
        "--measure",
        action="store_true",
        help="time the kernels now; needs an artefact compiled with --profile",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_explain, parser(), argv)


def _explain(args: argparse.Namespace) -> int:
    from tvm_insta.report import explain_command

    if args.other_times is not None and args.other is None:
        raise InputError("got --other-times without a second artefact: name it, or leave it away")
    wanted = [(args.artefact, args.times)]
    if args.other is not None:
        wanted.append((args.other, args.other_times))
    found = explain_command.explained(*wanted, measure=args.measure)
    for line in explain_command.told(found, args.json, args.html):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
