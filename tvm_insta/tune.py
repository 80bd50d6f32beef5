"""``python -m tvm_insta.tune``: search the schedules' parameters for a network and a target."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_insta import cli
from tvm_insta.cli.tune import add_arguments, run_tune


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.tune",
        description="Measure which parameters of the schedules are best for each layer, and keep "
        "them for the compiler. Ctrl-C ends the sweep; --resume goes on with it.",
    )
    add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(run_tune, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
