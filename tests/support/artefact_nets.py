"""Small networks of plain Relax operators, and artefacts of them, for several test files."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_insta import codegen
from tvm_insta.runtime import manifest as manifests
from tvm_insta.target import InstaTarget, parse

SEED = 20240
NATIVE = "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64-v3"
CLASSES = tuple(f"class{i}" for i in range(10))
PREPROCESSING = {"resize": [8, 8], "mode": "L", "scale": 1 / 255, "layout": "NHWC"}


def needs_tools(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def legalise(mod: tvm.IRModule, fuse: bool = True) -> tvm.IRModule:
    transform = relax.transform
    passes = [transform.LegalizeOps()]
    if fuse:
        passes += [
            transform.AnnotateTIROpPattern(),
            transform.FoldConstant(),
            transform.FuseOps(),
            transform.FuseTIR(),
            transform.DeadCodeElimination(),
        ]
    return tvm.transform.Sequential(passes)(mod)


def network(
    batch: int | None,
    body: Callable[[relax.BlockBuilder, relax.Var], relax.Expr],
    shape: tuple[int, ...] = (8, 8, 16),
    dtype: str = "float32",
    fuse: bool = True,
) -> tvm.IRModule:
    """One function `main`; `batch` None makes it symbolic."""
    leading = tirx.Var("n", "int64") if batch is None else batch
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([leading, *shape], dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(body(builder, x))
        builder.emit_func_output(out)
    return legalise(builder.get(), fuse)


def conv_net(batch: int | None, channels: int = 16) -> tvm.IRModule:
    """conv3x3 + bias + relu, residual, mean, dense, exp: five layers, a reshape, [n, 10] out."""
    rng = np.random.default_rng(SEED)
    ops = relax.op

    def constant(*shape: int) -> relax.Expr:
        return relax.const(rng.standard_normal(shape).astype("float32") * np.float32(0.2))

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        emit = builder.emit
        y = emit(
            ops.nn.conv2d(
                x,
                constant(channels, 3, 3, channels),
                padding=(1, 1),
                data_layout="NHWC",
                kernel_layout="OHWI",
            )
        )
        y = emit(ops.nn.relu(emit(ops.add(y, constant(channels)))))
        y = emit(ops.add(y, x))
        y = emit(ops.mean(y, [1, 2], keepdims=True))
        y = emit(ops.reshape(y, (x.ty.shape.values[0], channels)))
        return emit(ops.exp(emit(ops.matmul(y, constant(channels, 10)))))

    return network(batch, body, shape=(8, 8, channels))


def conv_net_numpy(x: np.ndarray, channels: int = 16) -> np.ndarray:
    """The same network in float64."""
    rng = np.random.default_rng(SEED)

    def constant(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape).astype("float32") * np.float32(0.2)).astype("float64")

    weight, bias, dense = (
        constant(channels, 3, 3, channels),
        constant(channels),
        constant(channels, 10),
    )
    x = x.astype("float64")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = sum(padded[:, i : i + 8, j : j + 8] @ weight[:, i, j].T for i in range(3) for j in range(3))
    y = np.maximum(y + bias, 0) + x
    return np.exp(y.mean((1, 2)) @ dense)


def images(batch: int, channels: int = 16, seed: int = SEED) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 8, 8, channels)).astype("float32")


def write_artefact(
    folder: Path,
    form: str,
    target: InstaTarget | str = NATIVE,
    *,
    name: str = "model",
    make: Callable[[int | None], tvm.IRModule] = conv_net,
    max_batch: int = 8,
) -> Path:
    """Compile, describe and write one artefact the way the compiler does."""
    target = parse(target) if isinstance(target, str) else target
    with codegen.staged(folder) as stage:
        if form == "c":
            made: codegen.CForm | codegen.VmForm = codegen.c_form(make(1), target, stage, name)
            program = made.plan.program
        else:
            made = codegen.vm_form(make(None), target, stage, name)
            program = made.program
        table = codegen.kernel_table(program, batched=form == "c")
        manifests.write(
            stage,
            manifests.Manifest(
                name=name,
                form=form,
                library=f"{name}.so",
                files=manifests.describe_files(stage, made.files),
                target_text=target.text,
                target=target.canonical,
                machine=target.arch,
                needs=made.needs,
                versions={
                    "tvm": importlib.metadata.version("apache-tvm"),
                    "tvm_ffi": importlib.metadata.version("apache-tvm-ffi"),
                    "tvm_insta": "0",
                },
                inputs=table.inputs,
                outputs=table.outputs,
                max_batch=max_batch,
                kernels=table.kernels,
                constants=table.constants,
                classes=CLASSES,
                preprocessing=PREPROCESSING,
            ),
        )
    return folder
