"""What `tvm_insta.export` takes, and what it does."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from tvm_insta.compiler import model_arguments, onnx_model
from tvm_insta.files import write_output


def add_arguments(result: argparse.ArgumentParser) -> None:
    """The options of the command."""
    model_arguments.add_model_arguments(result, onnx_option=False)
    result.add_argument(
        "--onnx", dest="output", type=Path, required=True, metavar="FILE", help="file to write"
    )
    result.add_argument(
        "--qonnx",
        action="store_true",
        help="signs and binary weights as QONNX's BipolarQuant, batch 1; else standard operators",
    )
    result.add_argument(
        "--float-weights",
        action="store_true",
        help="store binary weights as floats, not as int8 and a scale, for tools that want it so",
    )


def run_export(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    onnx_model.require_onnx()
    chosen = model_arguments.chosen_model(args)
    from tvm_insta.frontend.onnx.write import export

    properties = {"tvm_insta": json.dumps(dict(chosen.source.description))}
    if chosen.source.preprocessing is not None:
        properties["preprocessing"] = json.dumps(dict(chosen.source.preprocessing))
    if chosen.source.classes is not None:
        properties["classes"] = json.dumps(list(chosen.source.classes))
    model = export(
        chosen.module,
        [chosen.example, *chosen.more],
        qonnx=args.qonnx,
        quantised_weights=not args.float_weights,
        properties=properties,
    )
    data = model.SerializeToString()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_output(args.output, data)
    kinds = Counter(node.op_type for node in model.graph.node)
    layers = {op: kinds[op] for op in ("Conv", "Gemm", "MatMul") if kinds[op]}
    text = ", ".join(f"{count} {op}" for op, count in layers.items()) or "no layers"
    print(f"wrote {args.output} ({len(data) / 1e6:.2f} MB): {text}")
    print("checked: read back, it gives what PyTorch gives")
    return 0
