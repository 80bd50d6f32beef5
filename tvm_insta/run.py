"""``python -m tvm_insta.run``: images through an artefact, classes out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_insta import cli
from tvm_insta.cli.run import add_arguments, run_run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.run", description="Classify images with an artefact."
    )
    add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(run_run, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
