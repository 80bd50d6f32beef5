"""``python -m tvm_insta.run``: images through an artefact, classes out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_insta import cli, runtime
from tvm_insta.errors import InputError
from tvm_insta.runtime import cpu
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.preprocess import image_files, load_images


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.run", description="Classify images with an artefact."
    )
    result.add_argument("artefact", type=Path, help="folder that the compile command wrote")
    result.add_argument(
        "images",
        nargs="+",
        type=Path,
        help="image files, folders of images, or a folder with one subfolder per class, whose name "
        "is then taken as the truth",
    )
    result.add_argument("--top", type=int, default=1, help="classes to print for each image")
    result.add_argument(
        "--dump-input",
        type=Path,
        help="write the batch as the network takes it, raw float32 or uint8, for the C examples",
    )
    result.add_argument(
        "--threads", type=int, help="threads of one run (default: as tvm_insta.load has it)"
    )
    result.add_argument("--quiet", action="store_true", help="print the totals only")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_run, parser(), argv)


def _run(args: argparse.Namespace) -> int:
    manifest = manifests.read(args.artefact / manifests.FILE_NAME)
    # Images for a board are prepared where Python is.
    elsewhere = args.dump_input is not None and manifest.machine != cpu.machine()
    module = None if elsewhere else runtime.load(args.artefact, threads=args.threads)
    files, truth = _labelled(args.images)
    dtype = manifest.inputs[0].dtype
    batch = load_images(files, manifest.preprocessing, dtype)
    if args.dump_input is not None:
        args.dump_input.write_bytes(batch.tobytes())
        print(f"wrote {args.dump_input}: {list(batch.shape)} {dtype}")
    if module is None:
        print(f"compiled for {manifest.machine}: not run on this machine")
        return 0
    started = time.perf_counter()
    logits = classify(module, batch)
    seconds = time.perf_counter() - started
    names = module.manifest.classes
    if args.top < 1:
        raise InputError(f"got --top {args.top}, but at least 1 class is printed")
    order = np.argsort(-logits, axis=1, kind="stable")
    if not args.quiet:
        for file, row, best in zip(files, logits, order, strict=True):
            shown = ", ".join(
                f"{names[k] if names else k} ({row[k]:.3f})" for k in best[: args.top]
            )
            print(f"{file}: {shown}")
    if truth is not None:
        right = sum(
            (names[best[0]] if names else str(best[0])) == label
            for best, label in zip(order, truth, strict=True)
        )
        print(f"accuracy {100 * right / len(files):.2f} % ({right} of {len(files)} images)")
    print(
        f"{len(files)} images in {1e3 * seconds:.1f} ms ({1e3 * seconds / len(files):.3f} ms each)"
    )
    return 0


def classify(module: runtime.Module, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Logits ``[N, classes]`` for any number of images, in batches the artefact allows."""
    step = module.manifest.max_batch
    parts = [module(batch[start : start + step]) for start in range(0, len(batch), step)]
    return np.concatenate(parts)


def _labelled(paths: Sequence[Path]) -> tuple[list[Path], list[str] | None]:
    """Image files, and their classes where a single folder holds one subfolder per class."""
    if len(paths) == 1 and paths[0].is_dir():
        folders = sorted(entry for entry in paths[0].iterdir() if entry.is_dir())
        if folders:
            files = [(file, folder.name) for folder in folders for file in image_files([folder])]
            return [file for file, _ in files], [label for _, label in files]
    return image_files(paths), None


if __name__ == "__main__":
    sys.exit(main())
