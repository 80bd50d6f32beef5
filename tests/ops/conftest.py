from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "1")

import tvm
from tvm import relax

import tvm_insta.ops  # noqa: F401  registers the operators

# No mcpu: a generic CPU has no fused multiply-add, so float32 sums can be compared bit for bit.
TARGET = tvm.target.Target("llvm")


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers with a seed of the test's own; pytest shows the printed seed on failure."""
    seed = int(os.environ.get("TVM_INSTA_TEST_SEED", zlib.crc32(request.node.nodeid.encode())))
    print(f"TVM_INSTA_TEST_SEED={seed}")
    return np.random.default_rng(seed)


def build(builder: Callable[..., relax.Call], types: Sequence[relax.TensorType], **attrs):
    """IRModule whose `main` calls one operator on parameters of the given types."""
    block = relax.BlockBuilder()
    params = [relax.Var(f"arg{i}", ty) for i, ty in enumerate(types)]
    with block.function("main", params):
        with block.dataflow():
            result = block.emit_output(block.emit(builder(*params, **attrs)))
        block.emit_func_output(result)
    return block.get()


def compile_module(mod) -> Callable[..., np.ndarray]:
    """Legalise, fuse and compile for a generic CPU; the function takes and returns arrays."""
    passes = relax.transform
    lowered = tvm.transform.Sequential(
        [
            passes.LegalizeOps(),
            passes.AnnotateTIROpPattern(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.DeadCodeElimination(),
        ]
    )(mod)
    machine = relax.VirtualMachine(tvm.compile(lowered, TARGET), tvm.cpu())
    return lambda *arrays: machine["main"](*map(tvm.runtime.tensor, arrays)).numpy()


@pytest.fixture
def infer():
    """infer(builder, (shape, dtype), ..., **attrs) -> the type of the result."""

    def run(builder, *shapes, **attrs):
        args = [relax.Var(f"arg{i}", relax.TensorType(s, d)) for i, (s, d) in enumerate(shapes)]
        return relax.BlockBuilder().normalize(builder(*args, **attrs)).ty

    return run


@pytest.fixture
def run_op():
    """run_op(builder, array, ..., **attrs) -> the compiled operator's result.

    Also checks the inferred type against the result.
    """

    def run(builder, *arrays, **attrs):
        types = [relax.TensorType(list(a.shape), str(a.dtype)) for a in arrays]
        mod = build(builder, types, **attrs)
        result = compile_module(mod)(*arrays)
        inferred = mod["main"].ret_ty
        assert [int(d) for d in inferred.shape.values] == list(result.shape)
        assert str(inferred.dtype.dtype) == str(result.dtype)
        return result

    return run


@pytest.fixture
def build_op():
    return build


@pytest.fixture
def compile_op():
    return compile_module
