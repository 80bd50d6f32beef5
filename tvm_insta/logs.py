"""``tvm-insta logs``: list, check, merge, prune and pack tuning records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_insta import cli
from tvm_insta.cli.logs import add_arguments, run_logs


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.logs", description="Look after tuning records."
    )
    add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(run_logs, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
