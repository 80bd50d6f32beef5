"""``python -m tvm_insta.validate``: an artefact against PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tvm_insta import cli
from tvm_insta.files import write_output
from tvm_insta.runtime import devices


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.validate",
        description="Compare an artefact with the PyTorch network it was compiled from.",
    )
    result.add_argument("artefact", type=Path, help="folder that the compile command wrote")
    result.add_argument(
        "--inputs", type=int, default=32, help="number of random inputs (default 32)"
    )
    result.add_argument(
        "--images", type=Path, nargs="+", help="image files or folders, instead of random inputs"
    )
    result.add_argument("--seed", type=int, default=1, help="of the random inputs")
    result.add_argument(
        "--trust-source",
        action="store_true",
        help="execute the code that the artefact's manifest names as its network (--factory)",
    )
    result.add_argument(
        "--factory",
        metavar="FILE.py:NAME",
        help="execute this in its place, as of the compile command",
    )
    result.add_argument("--per-layer", action="store_true", help="a line for each binarisation")
    result.add_argument("--device", help=devices.HELP)
    result.add_argument("--json", type=Path, help="write the findings here")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: 0 if all was judged and holds, 1 if not, 2 for an error."""
    return cli.execute(_validate, parser(), argv)


def _validate(args: argparse.Namespace) -> int:
    from tvm_insta.cli import artefact as artefacts
    from tvm_insta.compiler import model_arguments
    from tvm_insta.errors import InputError

    if args.inputs < 1:
        raise InputError(f"got --inputs {args.inputs}, but at least 1 is needed")
    artefact = artefacts.load(args.artefact, args.device)

    import torch

    from tvm_insta.compiler.model_inputs import take_bytes
    from tvm_insta.report import findings_lines
    from tvm_insta.runtime.image_folder import image_files
    from tvm_insta.runtime.manifest import check_takes_images
    from tvm_insta.runtime.preprocess import for_input
    from tvm_insta.validate import validate
    from tvm_insta.validate.inputs import Files, Images, random_inputs

    manifest = artefact.manifest
    chosen = model_arguments.build_again(
        manifest.source,
        trusted=args.trust_source,
        factory=args.factory,
        shape=manifest.inputs[0].shape[1:],
    )
    network = chosen.module
    if manifest.options.get("input") == "uint8":
        network, _ = take_bytes(network, [chosen.example], manifest.preprocessing)
    inputs: Images | list[torch.Tensor]
    if args.images:
        check_takes_images(manifest, "--images are one input")
        files = image_files(args.images)
        tensor = manifest.inputs[0]
        inputs = Files(files, for_input(manifest.preprocessing, tensor), tensor.dtype)
        what = f"{len(files)} images"
    else:
        inputs = random_inputs(manifest, args.inputs, args.seed)
        what = f"{args.inputs} random inputs (seed {args.seed})"
    bar = cli.StepBar(steady=True)
    findings = validate(
        artefact, network, inputs, progress=lambda i, n: bar(f"{i} of {n} inputs", i, n)
    )
    bar.close()
    print(f"{args.artefact}: {artefact.form} form against PyTorch {torch.__version__}, {what}")
    for line in findings_lines(findings, per_layer=args.per_layer):
        print(line)
    if args.json is not None:
        text = json.dumps(dataclasses.asdict(findings), indent=1) + "\n"
        write_output(args.json, text.encode())
    failures = findings.failures()
    for failure in failures:
        print(f"FAILED: {failure}")
    for reason in findings.not_judged:
        print(f"NOT JUDGED: {reason}")
    print(findings.verdict)
    return 0 if findings.verdict == "valid" else 1


if __name__ == "__main__":
    sys.exit(main())
