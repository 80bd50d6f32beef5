"""Networks on an NVIDIA card, beside PyTorch; or, without a card, what their kernels do.

    python -m benchmarks.cuda [--models NAME ...] [--batches N ...] [--minutes M] [--json FILE]

With a card it compiles each network for it, validates the artefact against PyTorch, and measures it
with and without a CUDA graph, beside PyTorch's eager mode and torch.compile in float16, and
TensorRT where torch_tensorrt is installed. The whole takes no more than --minutes; what did not fit
is listed as not measured. Nothing is downloaded: the weights are random.

Without a card (or with --counts) it runs one image on the emulated device and lists launches, bytes
and what bounds each kernel by the model that tuning uses. None of these figures is a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.cuda.card import Budget, Settings, measure_all
from benchmarks.cuda.counts import count_network
from benchmarks.cuda.report import card_text, counts_text
from benchmarks.engines import MODELS
from tvm_insta import cli
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import cuda_driver

OLDEST = "sm_75"  # the oldest card that CUDA 13 knows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="benchmarks.cuda",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--models", nargs="+", choices=MODELS, default=["resnet18", "mobilenet_v1"])
    result.add_argument("--batches", nargs="+", type=int, default=[1, 256, 32])
    result.add_argument("--variant", default="insta", help="of the binary networks")
    result.add_argument("--minutes", type=float, default=9.5, help="for everything, with a card")
    result.add_argument("--counts", action="store_true", help="count, though there is a card")
    result.add_argument("--arch", default="sm_90", help="of the counted card (default: sm_90)")
    common.add_output_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_run, parser(), argv)


def _run(args: argparse.Namespace) -> int:
    common.check_arguments(args, batches=1, minutes=1)
    card = None if args.counts else _card()
    with tempfile.TemporaryDirectory(prefix="tvm_insta-cuda-") as folder:
        if card is None:
            found = [
                count_network(model, args.variant, args.arch, Path(folder)) for model in args.models
            ]
            result = {
                "machine": common.record(counted=args.arch, device="emulated"),
                "modelled": True,
                "networks": [dataclasses.asdict(each) for each in found],
            }
            common.write(args, result, "\n\n".join(map(counts_text, found)))
            return 0
        name, arch = card
        settings = Settings(tuple(args.models), tuple(args.batches), args.variant, arch)
        budget = Budget(60 * args.minutes, time.monotonic)
        measured = measure_all(settings, Path(folder), budget)
        versions = common.versions("apache-tvm", "tvm-insta", "torch", "torch-tensorrt")
        result = {
            "machine": common.record(card=name, arch=arch, versions=versions),
            "modelled": False,
            "seconds": budget.gone,
            "validations": [dataclasses.asdict(each) for each in measured.validations],
            "measurements": [dataclasses.asdict(each) for each in measured.measurements],
        }
        common.write(args, result, card_text(name, measured))
        return int(any(not each.valid for each in measured.validations))


def _card() -> tuple[str, str] | None:
    """Name and architecture of the first card, None where there is none that can be used."""
    try:
        return cuda_driver.name(OLDEST), cuda_driver.architecture()
    except ArtefactError as error:
        print(f"counted, not measured: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
