"""`ops.legalise` against PyTorch, and canaries that say when TVM needs it no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_insta.ops.legalise import LEGALISATIONS

NAN, INF = float("nan"), float("inf")

CASES: dict[str, tuple[Callable[[Any], Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relax.nn.relu": (relax.op.nn.relu, F.relu),
    "relax.nn.relu6": (relax.op.nn.relu6, F.relu6),
    "relax.clip": (lambda x: relax.op.clip(x, -0.5, 1.0), lambda x: x.clamp(-0.5, 1.0)),
    "relax.maximum": (
        lambda x: relax.op.maximum(x, relax.op.flip(x, 3)),
        lambda x: torch.maximum(x, x.flip(3)),
    ),
    "relax.minimum": (
        lambda x: relax.op.minimum(x, relax.op.flip(x, 3)),
        lambda x: torch.minimum(x, x.flip(3)),
    ),
    "relax.max": (lambda x: relax.op.max(x, [2, 3]), lambda x: x.amax((2, 3))),
    "relax.min": (lambda x: relax.op.min(x, [1], True), lambda x: x.amin(1, True)),
    "relax.nn.max_pool2d": (
        lambda x: relax.op.nn.max_pool2d(x, [2, 2], [2, 1], [1, 0, 0, 1]),
        lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-INF), 2, (2, 1)),
    ),
}
"""What keeps NaN: operator of Relax, and PyTorch's."""


def _run(make: Callable[[Any], Any], x: np.ndarray, own: Mapping[str, Any] | None) -> np.ndarray:
    builder = relax.BlockBuilder()
    variable = relax.Var("x", relax.TensorType(list(x.shape), str(x.dtype)))
    with builder.function("main", [variable]):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(make(variable)))
        builder.emit_func_output(output)
    mod = relax.transform.LegalizeOps(own)(builder.get())
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()  # type: ignore[no-any-return]


def _image(seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((2, 3, 5, 6)).astype(np.float32)
    x.flat[::7], x.flat[3::11], x.flat[5::13] = NAN, -INF, INF
    x[0, 0] = -INF
    return x


@pytest.mark.parametrize("name", CASES)
def test_nan_and_infinities_are_pytorchs(name: str) -> None:
    make, reference = CASES[name]
    for seed in range(3):
        x = _image(seed)
        theirs = reference(torch.from_numpy(x)).numpy()
        np.testing.assert_array_equal(_run(make, x, LEGALISATIONS), theirs, err_msg=f"seed {seed}")


@pytest.mark.parametrize("name", CASES)
def test_tvm_still_loses_nan(name: str) -> None:
    make, reference = CASES[name]
    x = _image(0)
    theirs = reference(torch.from_numpy(x)).numpy()
    assert not np.array_equal(_run(make, x, None), theirs, equal_nan=True), (
        f"TVM {tvm.__version__} keeps NaN in {name} now: its own legalisation may be used"
    )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 5),
    shift=st.sampled_from([0.0, 10.0, -1000.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_means_and_sums_are_rounded_once(
    height: int, width: int, channels: int, shift: float, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((2, channels, height, width)) + shift
    x = x.astype(np.float32)
    for make, reference in (
        (lambda v: relax.op.mean(v, [2, 3]), x.astype(np.float64).mean((2, 3))),
        (lambda v: relax.op.sum(v, [1], True), x.astype(np.float64).sum(1, keepdims=True)),
    ):
        ours = _run(make, x, LEGALISATIONS)
        # One rounding to float32; the float64 sum itself is off by far less than that.
        unit = np.spacing(np.abs(reference).astype(np.float32)).astype(np.float64)
        assert (np.abs(ours - reference) <= 0.51 * unit + 1e-12 * np.abs(x).sum()).all()


def test_tvm_still_sums_one_after_the_other() -> None:
    x = np.random.default_rng(0).random((1, 16, 32, 32), np.float32) + 1.0
    exact = x.astype(np.float64).mean((1, 2, 3))
    theirs = _run(lambda v: relax.op.mean(v, [1, 2, 3]), x, None)
    ours = _run(lambda v: relax.op.mean(v, [1, 2, 3]), x, LEGALISATIONS)
    assert abs(ours - exact).max() < 1.2e-7
    assert abs(theirs - exact).max() > 3e-7, "TVM adds in another way now: see ops.legalise"
