"""Two gloo processes compute what one process computes with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from tvm_insta.train import Execution, Recipe, history, state, train

RECIPE = Recipe(variant="insta_plus", epochs=(0, 1), batch=16, padding=1)


def two_processes(data, cache, output, *more):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "tvm_insta.train", "--data", data, "--cache", cache, "--output", output]
    command += "--no-compile --device cpu --threads 1 --variant insta_plus --epochs 0 1".split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--padding", "1", *more],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)
def test_two_processes_are_one(data, cache, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(RECIPE, Execution(data, one, cache, threads=1, compile=False, device="cpu"))
    done = two_processes(data, cache, two, "--batch", "16")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote") == 1, "one process speaks for both"
    (mine,), (theirs,) = (history.read(folder / history.NAME) for folder in (one, two))
    # Sums are taken in another order; after three updates that has hardly grown.
    assert theirs.loss == pytest.approx(mine.loss, rel=1e-3)
    tensors = [safetensors.torch.load_file(folder / state.NAME) for folder in (one, two)]
    far = total = 0
    for name, tensor in tensors[0].items():
        if tensor.is_floating_point() and "running" not in name:
            far += int(((tensor - tensors[1][name]).abs() > 1e-3).sum())
            total += tensor.numel()
    # An update is up to the learning rate, 4e-3; Adam turns the sign of a gradient near 0 into a
    # whole step, so that a few parameters differ by that.
    assert far < 0.02 * total, f"{far} of {total} parameters differ"
    mean = "model.stage1.0.bn.running_mean"
    torch.testing.assert_close(tensors[0][mean], tensors[1][mean], rtol=1e-3, atol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(data, cache, tmp_path):
    done = two_processes(data, cache, tmp_path / "odd", "--batch", "15")
    assert done.returncode != 0
    assert "got batches of 15 for 2 processes: give a multiple" in done.stderr
