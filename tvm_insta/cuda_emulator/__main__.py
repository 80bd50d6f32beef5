"""``python -m tvm_insta.cuda_emulator``: the emulated device for programs without Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tvm_insta import cli
from tvm_insta.cuda_emulator.folder import write_folder
from tvm_insta.errors import InputError
from tvm_insta.runtime import devices
from tvm_insta.runtime import manifest as manifests


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.cuda_emulator",
        description="Write libraries with which a program, such as examples/c/cuda.c, runs an "
        "artefact for CUDA without a card.",
    )
    result.add_argument("artefact", type=Path, help="folder that the compile command wrote")
    result.add_argument(
        "-o", "--output", type=Path, required=True, help="folder to name in LD_LIBRARY_PATH"
    )
    result.add_argument(
        "--arch", help='the card that is emulated, such as "sm_90" (default: the artefact\'s)'
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_run, parser(), argv)


def _run(args: argparse.Namespace) -> int:
    manifest = manifests.read(args.artefact / manifests.FILE_NAME)
    arch = devices.architecture(manifest)
    if arch is None:
        raise InputError(f"{args.artefact} is for a CPU: give an artefact for CUDA")
    write_folder(args.artefact / manifest.library, args.output, args.arch or arch)
    print(f"wrote {args.output}: run a program with LD_LIBRARY_PATH={args.output.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
