"""What `tvm_insta.run` takes, and what it does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_insta.cli import artefact
from tvm_insta.errors import InputError
from tvm_insta.files import output
from tvm_insta.runtime import cpu, devices, preprocess_option
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.classify import classify
from tvm_insta.runtime.image_folder import ImageSet, image_set
from tvm_insta.runtime.module import Module
from tvm_insta.runtime.preprocess import Preprocessing, for_input, image_batches

_AT_ONCE = 256
"""Images in memory, where an artefact takes as many."""


def add_arguments(result: argparse.ArgumentParser) -> None:
    """The options of the command."""
    result.add_argument("artefact", type=Path, help="folder that the compile command wrote")
    result.add_argument(
        "images",
        nargs="+",
        type=Path,
        help="image files, folders of images, or a folder with one subfolder per class, whose name "
        "is then taken as the truth (hidden ones are left out)",
    )
    result.add_argument(
        "--preprocess", metavar="HOW", help=f"{preprocess_option.HELP} (default: as compiled)"
    )
    result.add_argument("--top", type=int, help="classes to print for each image (default: 1)")
    result.add_argument(
        "--dump-input",
        type=Path,
        help="write the batch as the network takes it, raw float32 or uint8, for the C examples",
    )
    result.add_argument(
        "--threads", type=int, help="threads of one run (default: as tvm_insta.load has it)"
    )
    result.add_argument("--device", help=devices.HELP)
    result.add_argument("--quiet", action="store_true", help="print the totals only")


def run_run(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    if args.top is not None and (args.quiet or args.top < 1):
        why = "with --quiet, which prints none" if args.quiet else "but at least 1 class is printed"
        raise InputError(f"got --top {args.top}, {why}: leave it away or give another number")
    manifest = manifests.read(args.artefact / manifests.FILE_NAME)
    manifests.check_takes_images(manifest, "run classifies images")
    if len(manifest.outputs) != 1:
        raise InputError(
            f"the artefact has {len(manifest.outputs)} outputs, but run prints the classes of one: "
            "call the artefact from Python"
        )
    # Images for a board are prepared where Python is.
    elsewhere = args.dump_input is not None and manifest.machine != cpu.machine()
    elsewhere = elsewhere and args.device is None
    module = None if elsewhere else artefact.load(args.artefact, args.device, threads=args.threads)
    images = image_set(args.images)
    for note in images.notes:
        print(note)
    info, given = manifest.inputs[0], manifest.outputs[0].shape[1:]
    batches = image_batches(
        images.files,
        _preprocessing(args, manifest),
        info.dtype,
        min(manifest.max_batch, _AT_ONCE),
    )
    runs = module if len(given) == 1 else None
    found = _Found(_names(manifest), args.top or 1)
    with _dump(args.dump_input) as write:
        for batch in batches:
            write(batch)
            if runs is not None:
                found.take(runs, batch)
    if args.dump_input is not None:
        print(f"wrote {args.dump_input}: {[len(images.files), *info.shape[1:]]} {info.dtype}")
    if module is None:
        print(f"compiled for {manifest.machine}: not run on this machine")
        return 0
    if runs is None:
        raise InputError(
            f"the network gives {list(given)} numbers for an image, which are no "
            "classes: call the artefact from Python"
        )
    if not args.quiet:
        for file, line in zip(images.files, found.lines, strict=True):
            print(f"{file}: {line}")
    for line in _accuracy(images, found.best, found.names):
        print(line)
    count = len(images.files)
    if module.device is devices.Device.EMULATED:
        print(f"{count} images on the emulated device, which has no time")
        return 0
    took = 1e3 * found.seconds
    print(f"{count} images in {took:.1f} ms ({took / count:.3f} ms each)")
    return 0


class _Found:
    """The classes of the images so far, without the images.

    Attributes:
        lines: of each image the likeliest classes and their logits.
        best: of each image the likeliest class.
        seconds: that the network ran.
    """

    def __init__(self, names: Sequence[str], top: int) -> None:
        self.names, self._top = names, top
        self.lines: list[str] = []
        self.best: list[str] = []
        self.seconds = 0.0

    def take(self, module: Module, batch: npt.NDArray[Any]) -> None:
        """Classify a batch."""
        started = time.perf_counter()
        logits = classify(module, batch)
        self.seconds += time.perf_counter() - started
        for row, best in zip(logits, np.argsort(-logits, axis=1, kind="stable"), strict=True):
            shown = [f"{self.names[k]} ({row[k]:.3f})" for k in best[: self._top]]
            self.lines.append(", ".join(shown))
            self.best.append(self.names[best[0]])


def _names(manifest: manifests.Manifest) -> tuple[str, ...]:
    """Those of the classes, or their numbers."""
    size, names = manifest.outputs[0].shape[-1], manifest.classes or ()
    count = size if isinstance(size, int) else 0
    return names if len(names) == count else tuple(map(str, range(count)))


@contextmanager
def _dump(path: Path | None) -> Iterator[Callable[[npt.NDArray[Any]], object]]:
    """What writes one batch after the other into a file, which appears when all are there."""
    if path is None:
        yield lambda batch: None
    else:
        with output(path) as stream:
            yield lambda batch: stream.write(batch.tobytes())


def _preprocessing(args: argparse.Namespace, manifest: manifests.Manifest) -> Preprocessing:
    tensor = manifest.inputs[0]
    if args.preprocess is None:
        return for_input(manifest.preprocessing, tensor)
    if tensor.dtype == "uint8":
        raise InputError(
            "got --preprocess for an artefact that normalises its images itself (compiled with "
            "--input uint8): leave it away, or compile again with another --preprocess"
        )
    described = preprocess_option.described(args.preprocess, tensor.shape[1:])
    return for_input(described.preprocessing, tensor)


def _accuracy(images: ImageSet, found: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """The share of right classes, of the images in folders that are named like classes."""
    folders, known = {label for label in images.labels if label is not None}, set(names)
    unknown = sorted(folders - known)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        yield (
            f"{', '.join(unknown[:3])}{more} are no classes of this network, which are called "
            f"{names[0]} to {names[-1]}: images in these folders are not counted as right or wrong"
        )
    pairs = [(a, b) for a, b in zip(found, images.labels, strict=True) if b in known]
    if pairs:
        right = sum(guess == label for guess, label in pairs)
        share = 100 * right / len(pairs)
        yield f"accuracy {share:.2f} % ({right} of {len(pairs)} images)"
