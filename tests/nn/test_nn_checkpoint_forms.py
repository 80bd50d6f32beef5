"""Checkpoints in the forms in which projects save them."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import pathlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.checkpoint_nets import (
    TRAINED,
    Attributes,
    Net,
    Record,
    State,
    floats,
    loaded,
    prefixed,
    without,
)
from tvm_insta import nn
from tvm_insta.errors import ModelError

# What is saved, and what must be said of it.
FORMS: dict[str, tuple[object, str]] = {
    "state dict": (TRAINED, ""),
    "training's checkpoint": (
        {"epoch": 3, "state_dict": TRAINED, "best": torch.tensor(0.5), "optimizer": {"state": {}}},
        "ignored epoch, best, optimizer",
    ),
    "data parallel": ({"state_dict": prefixed("module.")}, "stripped 'module.'"),
    "compiled": (prefixed("_orig_mod."), "stripped '_orig_mod.'"),
    "lightning": (
        {"state_dict": prefixed("model."), "pytorch-lightning_version": "2.0"},
        "stripped 'model.'; ignored pytorch-lightning_version",
    ),
    "with a loss beside": (
        {"state_dict": {**prefixed("net."), "loss.weight": torch.ones(3)}},
        "stripped 'net.'; ignored loss.weight",
    ),
    "two prefixes": (prefixed("module.backbone."), "stripped 'module.backbone.'"),
    "a part in data parallel": (
        {n.replace("features.", "features.module."): v for n, v in TRAINED.items()},
        "stripped 'module' inside of names",
    ),
    "under model": ({"model": TRAINED, "epoch": 1}, "took 'model'; ignored epoch"),
    "under net": ({"net": TRAINED, "acc": 91.5}, "took 'net'; ignored acc"),
    "average beside": (
        {"model": TRAINED, "model_ema": floats(lambda v: v + 1)},
        "took 'model'; 'model_ema' would fit, too (--checkpoint-key)",
    ),
    "average only": ({"ema": {"module": TRAINED}}, "took 'ema.module'"),
    "averaged model": (
        {"n_averaged": torch.tensor(3), **prefixed("module.")},
        "stripped 'module.'; ignored n_averaged",
    ),
    "half": (floats(torch.Tensor.half), "cast 8 tensors from float16 to float32"),
    "half, with the counters": (
        {n: v if n == "levels" else v.half() for n, v in TRAINED.items()},
        "cast 8 tensors from float16 to float32; ignored 1 counter of operations or batches",
    ),
    "bfloat16": (floats(torch.Tensor.bfloat16), "cast 8 tensors from bfloat16 to float32"),
    "double": (floats(torch.Tensor.double), "cast 8 tensors from float64 to float32"),
    "without counters of batches": (without("num_batches_tracked"), ""),
    "counters of operations": (
        {**TRAINED, "total_ops": torch.zeros(1), "features.total_params": torch.zeros(1)},
        "ignored 2 counters of operations or batches",
    ),
    "parameters": (floats(torch.nn.Parameter), ""),
    "numpy arrays": ({n: v.numpy() for n, v in TRAINED.items()}, ""),
    "numpy arrays of the other byte order": (
        floats(lambda v: v.numpy().astype(">f4")),
        "",
    ),
    "numpy arrays in Fortran's order": (floats(lambda v: np.asfortranarray(v.numpy())), ""),
    "numpy scalars": (
        {
            "state_dict": {
                **TRAINED,
                "features.1.num_batches_tracked": np.int64(
                    TRAINED["features.1.num_batches_tracked"]
                ),
            },
            "accuracy": np.float64(0.7),
        },
        "ignored accuracy",
    ),
    "transposed in memory": (floats(lambda v: v.t().contiguous().t() if v.dim() == 2 else v), ""),
    "sparse": (
        {**TRAINED, "head.weight": TRAINED["head.weight"].to_sparse()},
        "made 1 sparse tensor dense",
    ),
    "arguments and records": (
        {
            "model": TRAINED,
            "args": argparse.Namespace(lr=0.1),
            "log": collections.defaultdict(list, {"loss": [1.0]}),
            "recent": collections.deque([1, 2]),
            "folder": pathlib.PurePosixPath("runs"),
            "when": datetime.datetime(2024, 1, 1),
            "make": functools.partial(int, "3"),
            "callback": Record(),
            "config": Attributes(depth=Attributes(width=2)),
        },
        "took 'model'; ignored args, log, recent and 5 more",
    ),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str, zipped: bool, tmp_path: Path) -> None:
    content, said = FORMS[name]
    for ending in ("ckpt", "pth.tar"):
        path = tmp_path / f"net.{ending}"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        state, note = loaded(path)
        assert note == said
        for key, value in TRAINED.items():
            own = "counters" in name and key.endswith("num_batches_tracked")
            own = own and "operations" not in name
            assert torch.equal(state[key], Net(2).state_dict()[key] if own else value), key
            assert state[key].dtype == value.dtype


def test_safetensors_by_another_name(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    safetensors.torch.save_file(prefixed("model."), path)
    state, note = loaded(path)
    assert note == "stripped 'model.'" and torch.equal(state["head.bias"], TRAINED["head.bias"])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prefix=st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "a"]), max_size=3),
    keys=st.lists(st.sampled_from(["state_dict", "model", "net", "ema", "x"]), max_size=3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    strange=st.booleans(),
)
def test_wrapped_in_any_way(
    prefix: list[str], keys: list[str], dtype: torch.dtype, strange: bool, tmp_path: Path
) -> None:
    """Every nesting of keys and prefixes gives the same parameters; another name gives none."""
    content: State = prefixed("".join(f"{part}." for part in prefix), floats(lambda v: v.to(dtype)))
    if strange:
        content["".join(f"{part}." for part in prefix) + "head.more"] = torch.zeros(1)
    for key in keys:
        content = {key: content, "epoch": 1}
    torch.save(content, tmp_path / "net.pt")
    if strange:
        with pytest.raises(ModelError, match="1 unexpected"):
            loaded(tmp_path / "net.pt")
    else:
        state, _ = loaded(tmp_path / "net.pt")
        assert all(torch.equal(state[n], v) for n, v in TRAINED.items())


def test_which_of_several(tmp_path: Path) -> None:
    other = floats(lambda v: v + 1)
    path = tmp_path / "net.pt"
    torch.save({"student": TRAINED, "other": other, "epoch": 2}, path)
    with pytest.raises(ModelError, match=r"2 state dicts that fit \('other', 'student'\)") as found:
        loaded(path)
    assert "--checkpoint-key" in str(found.value)
    assert torch.equal(loaded(path, key="other")[0]["head.bias"], other["head.bias"])
    with pytest.raises(ModelError, match=r"no tensors under the key 'epoch'; .*'student', 'other'"):
        loaded(path, key="epoch")
    torch.save({"state_dict": {**prefixed("student."), **prefixed("teacher.", other)}}, path)
    assert torch.equal(loaded(path)[0]["head.bias"], TRAINED["head.bias"])
    for key in ("teacher", "state_dict.teacher"):
        assert torch.equal(loaded(path, key=key)[0]["head.bias"], other["head.bias"])


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_network_that_holds_its_teacher(prefix: str, tmp_path: Path) -> None:
    """The teacher's names would fit once its prefix is stripped: it is not what was asked for."""
    other = floats(lambda v: v + 1)
    path = tmp_path / "net.pt"
    torch.save({**prefixed(prefix), **prefixed(f"{prefix}teacher.", other)}, path)
    with pytest.raises(ModelError, match=rf"unexpected \({prefix}teacher\.levels"):
        loaded(path)
    state, _ = loaded(path, key=f"{prefix}teacher")
    assert torch.equal(state["head.bias"], other["head.bias"])


def test_one_of_two_names_of_a_tensor(tmp_path: Path) -> None:
    def tied() -> torch.nn.Module:
        network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        network[1].weight = network[0].weight
        return network

    saved = tied()
    state = saved.state_dict()
    del state["1.weight"]
    torch.save(state, tmp_path / "net.pt")
    again = tied()
    nn.load_checkpoint(again, tmp_path / "net.pt")
    assert torch.equal(again[1].weight, saved[0].weight)  # type: ignore[union-attr, index]
