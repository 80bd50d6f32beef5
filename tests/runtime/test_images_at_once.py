"""The vm form runs a batch in passes of as many images as stay in a cache: the same bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tests.support import artefact_nets as nets
from tvm_insta import runtime
from tvm_insta.codegen.images_at_once import images_at_once
from tvm_insta.codegen.program import KernelCall, Program, Ref, TensorSpec
from tvm_insta.runtime import manifest as manifests


class Binary(nn.Module):
    """A binary layer over 16 channels of float32, the largest activations of the network."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 1)
        self.conv = nn.Conv2d(16, 16, 3, bias=False)
        self.conv.weight.data.sign_()

    def forward(self, x):
        return self.conv(torch.sign(self.stem(x))).mean((2, 3))


class OverTheBatch(Binary):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class Weighted(Binary):
    """An image of its first input is no multiple of 64 bytes, nor is one of its second."""

    def forward(self, x, weight):
        return super().forward(x) * weight


def passes_of(module, monkeypatch):
    """The batch of each pass of the runs to come."""
    found, main = [], module._backend.main

    def counted(*inputs):
        found.append(int(inputs[0].shape[0]))
        return main(*inputs)

    monkeypatch.setattr(module._backend, "main", counted)
    return found


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An artefact whose images take 1.5 MB of activations each: two at once."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("large")
    tvm_insta.build(Binary(), torch.zeros(1, 1, 150, 150), out_dir=folder, max_batch=7)
    return folder


def test_a_large_batch_takes_several_passes(large, monkeypatch):
    module = runtime.load(large)
    assert module.manifest.images_at_once == 2
    x = np.random.default_rng(1).standard_normal((7, 1, 150, 150)).astype(np.float32)
    alone = np.concatenate([module(x[at : at + 1]) for at in range(7)])
    found = passes_of(module, monkeypatch)
    assert module(x).tobytes() == alone.tobytes()
    assert found == [2, 2, 2, 1]
    found.clear()
    assert module(x[:2]).tobytes() == alone[:2].tobytes()
    assert found == [2]
    found.clear()
    module.benchmark(x[:3], warmup=0, repeat=2)
    assert found == [2, 1, 2, 1]


def test_a_trace_has_the_whole_batch(large):
    x = np.random.default_rng(2).standard_normal((5, 1, 150, 150)).astype(np.float32)
    module = runtime.load(large)
    last = module.trace(x)[-1].output
    assert last.reshape(5, -1).tobytes() == module(x).tobytes()


def test_images_that_influence_each_other_stay_together(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = OverTheBatch()
    x = torch.randn(5, 1, 150, 150)
    tvm_insta.build(module, x[:1], out_dir=tmp_path, max_batch=5)
    artefact = runtime.load(tmp_path)
    assert artefact.manifest.images_at_once is None
    found = passes_of(artefact, monkeypatch)
    expected = module(x).detach().numpy()
    assert np.abs(artefact(x.numpy()) - expected).max() < 1e-4 * np.abs(expected).max()
    assert found == [5]


def test_every_input_is_cut_and_aligned(tmp_path):
    torch.manual_seed(0)
    module, weight = Weighted(), torch.randn(5, 1)
    x = torch.randn(5, 1, 7, 7)
    tvm_insta.build(module, [x[:1], weight[:1]], out_dir=tmp_path, max_batch=5)
    whole = runtime.load(tmp_path)
    assert whole.manifest.images_at_once == 5
    manifests.write(tmp_path, replace(whole.manifest, images_at_once=2))
    cut = runtime.load(tmp_path)
    both = x.numpy(), weight.numpy()
    assert cut(*both).tobytes() == whole(*both).tobytes()
    assert cut.benchmark(*both, warmup=0, repeat=1).shape == (1,)


@settings(max_examples=20, deadline=None)
@given(at_once=st.integers(1, 8), batch=st.integers(1, 8), seed=st.integers(0, 9))
def test_same_bits_for_any_number(built, at_once, batch, seed):
    whole = runtime.load(built["vm"])
    cut = runtime.Module(built["vm"], replace(whole.manifest, images_at_once=at_once))
    x = nets.images(batch, seed=seed)
    assert cut(x).tobytes() == whole(x).tobytes()


def test_other_forms_name_no_number(tmp_path):
    folder = tmp_path / "c"
    tvm_insta.build(Binary(), torch.zeros(1, 1, 8, 8), out_dir=folder, runtime="c")
    assert runtime.load(folder).manifest.images_at_once is None
    few = tmp_path / "vm"  # too few to see whether images influence each other
    tvm_insta.build(Binary(), torch.zeros(1, 1, 8, 8), out_dir=few, max_batch=2)
    assert runtime.load(few).manifest.images_at_once is None


def program(*sizes: int) -> Program:
    """A chain of kernels whose values have so many float32; the second is read by the last, too."""
    values = tuple(
        TensorSpec(
            f"v{i}", ("batch" if i % 2 else f"batch * {size}", 1 if i % 2 == 0 else size), "float32"
        )
        for i, size in enumerate(sizes)
    )
    calls = [KernelCall("k", (Ref("input", 0),), (0,))]
    calls += [KernelCall("k", (Ref("value", i - 1),), (i,)) for i in range(1, len(sizes) - 1)]
    calls.append(
        KernelCall("k", (Ref("value", len(sizes) - 2), Ref("value", 1)), (len(sizes) - 1,))
    )
    last = len(sizes) - 1
    inputs = (TensorSpec("x", ("batch", 1), "float32"),)
    return Program(inputs, (), values, tuple(calls), Ref("value", last), values[last])


@pytest.mark.parametrize(
    ("sizes", "max_batch", "expected"),
    [
        ((1, 1, 1), 64, 64),
        ((250_000, 250_000, 1), 64, 2),  # 1 MB each, two at a time
        ((250_000, 250_000, 250_000, 1), 64, 2),  # the first is dead when the third is made
        ((1, 250_000, 250_000, 250_000, 1), 64, 1),  # the second lives on: 3 MB
        ((1 << 24, 1, 1), 64, 1),
        ((1 << 14, 1 << 14, 1), 3, 3),
    ],
)
def test_as_many_as_stay_in_a_cache(sizes, max_batch, expected):
    assert images_at_once(program(*sizes), max_batch) == expected
