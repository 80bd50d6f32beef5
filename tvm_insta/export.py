"""``python -m tvm_insta.export``: a model as an ONNX or QONNX file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_insta import cli
from tvm_insta.cli.export import add_arguments, run_export


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.export",
        description="Write a network as an ONNX file, and check the file against the network.",
    )
    add_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(run_export, parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
