"""``python -m tvm_insta.bench``: the latency of an artefact on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_insta import cli
from tvm_insta.cli.bench import add_arguments, run_bench


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.bench", description="Measure the latency of an artefact."
    )
    add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(run_bench, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
