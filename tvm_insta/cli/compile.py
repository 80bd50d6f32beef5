"""What `tvm_insta.compile` takes, and what it does."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from tvm_insta import cli
from tvm_insta.cli.network import chosen_network
from tvm_insta.compiler import model_arguments
from tvm_insta.compiler.options import (
    AMX_WEIGHTS,
    BINARY,
    INPUTS,
    RANDOM,
    RUNTIMES,
    SIGN_OF_ZERO,
    STEMS,
    STORAGE,
    CompileOptions,
)
from tvm_insta.errors import InputError
from tvm_insta.runtime import preprocess_option
from tvm_insta.target.text import with_host


def add_arguments(result: argparse.ArgumentParser) -> None:
    """The options of the command."""
    model_arguments.add_model_arguments(result)
    result.add_argument("--preprocess", metavar="HOW", help=preprocess_option.HELP)
    result.add_argument(
        "--target",
        default="llvm",
        help='"llvm" (this machine), "llvm -mtriple=aarch64", "cuda -arch=sm_90", JSON, or one of '
        "native, avx2, avx512, rpi3, rpi4, pixel, cortex-a53, cortex-a55, cortex-a72, cortex-a76, "
        "neoverse-n1, armv7, a100, rtx4090, h100, orin",
    )
    result.add_argument(
        "--host",
        metavar="TARGET",
        help='CPU beside the card of a cuda target, such as "llvm -mtriple=aarch64" (default: this '
        "machine)",
    )
    result.add_argument(
        "--runtime",
        default="vm",
        choices=RUNTIMES,
        help="vm: TVM's virtual machine, dynamic batch; c: plain C, libc only",
    )
    result.add_argument(
        "--input",
        default="float32",
        choices=INPUTS,
        help="float32: normalised images, as PyTorch takes them; uint8: their pixels, normalised "
        "inside the network",
    )
    result.add_argument(
        "--stem",
        default="fp32",
        choices=STEMS,
        help="numbers of the stem and the other float layers: fp32 (reference), bf16 (AVX-512 "
        "BF16) or int8 (x86 with VNNI, aarch64 with dotprod); validate says what changes",
    )
    result.add_argument(
        "--storage",
        default="fp32",
        choices=STORAGE,
        help="how images lie in memory between kernels: fp32 (reference), or fp16 (aarch64, "
        "x86 with F16C, CUDA), half of it and rounded; validate says what changes",
    )
    result.add_argument(
        "--binary",
        default="auto",
        choices=BINARY,
        help="how binary convolutions compute: popcount; amx: as products of bytes where AMX tiles "
        "can; auto: what should be faster, layer by layer. The result is the same",
    )
    result.add_argument(
        "--amx-weights",
        default="auto",
        choices=AMX_WEIGHTS,
        help="weights of binary convolutions in AMX tiles: bits, which every task expands; bytes, "
        "which take eight times the space, in the artefact too; auto: bytes for layers of up to "
        "1 MiB of them. The result is the same",
    )
    result.add_argument(
        "--calibrate",
        metavar="DIR",
        help=f"sample images for --stem int8, or '{RANDOM}' (for timing only)",
    )
    result.add_argument("-o", "--output", type=Path, help="folder of the artefact")
    result.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="also write a folder to copy to a board: artefact, C program, Makefile, libraries",
    )
    result.add_argument("--max-batch", type=int, default=64, help="largest batch of one call")
    result.add_argument("--name", default="model", help="prefix of files and C functions")
    result.add_argument("--dump-ir", type=Path, help="write one TVMScript file per phase here")
    result.add_argument(
        "--verify-stages",
        action="store_true",
        help="execute the module after every phase and compare it with PyTorch",
    )
    result.add_argument(
        "--no-check",
        action="store_true",
        help="do not compare the artefact with PyTorch before it is handed over",
    )
    result.add_argument(
        "--sign-of-zero",
        default="exact",
        choices=SIGN_OF_ZERO,
        help="exact: torch.sign(0) is 0, and activations whose sign may be 0 take two bits; +1: "
        "one bit, validate counts what it changes",
    )
    result.add_argument(
        "--profile",
        action="store_true",
        help="kernels count their time, for bench --layers and explain --measure",
    )
    result.add_argument(
        "--explain",
        action="store_true",
        help="say what became of every layer, as the explain command does",
    )
    result.add_argument(
        "--strict-schedules",
        action="store_true",
        help="a kernel that falls back to a slower schedule is an error, not a warning",
    )
    result.add_argument(
        "--require-binary",
        action="store_true",
        help="a convolution or dense layer that stays float is an error",
    )
    result.add_argument(
        "--allow-float",
        metavar="LAYERS",
        default="",
        help="with --require-binary: layers that may stay float, e.g. stem,fc",
    )
    result.add_argument(
        "--log-dir",
        type=Path,
        help="folder of tuning records (default: those that ship with the package)",
    )


def run_compile(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    options = CompileOptions(
        target=args.target if args.host is None else with_host(args.target, args.host),
        runtime=args.runtime,
        input=args.input,
        stem=args.stem,
        storage=args.storage,
        calibrate=args.calibrate,
        binary=args.binary,
        amx_weights=args.amx_weights,
        max_batch=args.max_batch,
        name=args.name,
        dump_ir=args.dump_ir,
        verify_stages=args.verify_stages,
        check=not args.no_check,
        sign_of_zero=args.sign_of_zero,
        profile=args.profile,
        strict_schedules=args.strict_schedules,
        require_binary=args.require_binary,
        allow_float=tuple(name.strip() for name in args.allow_float.split(",") if name.strip()),
        log_dir=args.log_dir,
    )
    if args.log_dir is not None and not args.log_dir.is_dir():
        raise InputError(
            f"got --log-dir {args.log_dir}, but there is no such folder: give that of the tune "
            "command, or leave it away for the records that ship with the package"
        )
    from tvm_insta.target import parse

    target = parse(options.target)
    for note in target.notes:
        print(f"target: {note}")
    if args.bundle is not None:
        from tvm_insta.codegen.bundle import check_bundle

        check_bundle(args.bundle, target)
    chosen = chosen_network(args)
    if not chosen.dynamic:
        options = dataclasses.replace(options, max_batch=1)
    source = chosen.source
    if args.preprocess is not None:
        how = preprocess_option.described(args.preprocess, chosen.example.shape[1:])
        source = dataclasses.replace(
            source, preprocessing=how.preprocessing, classes=how.classes or source.classes
        )
    kind = f"{options.runtime}-uint8" if options.input == "uint8" else options.runtime
    output = args.output or Path("build") / f"{chosen.label}-{_slug(target.text)}-{kind}"
    from tvm_insta.compiler.driver import compile_module

    bar = cli.StepBar()
    try:
        artefact = compile_module(
            chosen.module,
            [chosen.example, *chosen.more],
            options,
            output,
            source=source,
            progress=bar,
        )
    finally:
        bar.close()
    from tvm_insta.report import compile_summary

    for line in compile_summary(output, artefact.manifest):
        print(line)
    if args.explain:
        print()
        print(artefact.explain())
    if args.bundle is not None:
        from tvm_insta.codegen.bundle import write_bundle

        for note in write_bundle(output, args.bundle, target):
            print(f"bundle: {note}")
        print(f"wrote the bundle {args.bundle}: its README.md says how to run it")
    return 0


def _slug(text: str) -> str:
    """A target as part of a folder's name: "llvm -mtriple=aarch64" becomes "llvm-aarch64"."""
    words = re.sub(r"-\w[\w-]*=", " ", text)
    return "-".join(re.findall(r"[\w.+]+", words))
