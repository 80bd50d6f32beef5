"""``python -m tvm_insta.compile``: a model into an artefact for a target."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_insta import cli
from tvm_insta.cli.compile import add_arguments, run_compile


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.compile",
        description="Compile a binary network into a module that C and Python programs load.",
    )
    add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(run_compile, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
