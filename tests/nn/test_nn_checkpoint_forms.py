"""Checkpoints in the forms in which projects save them, and files that must be refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvm_insta import nn
from tvm_insta.errors import ModelError

State = dict[str, Any]


class Net(torch.nn.Module):
    """Small, with every kind of entry: weights, running statistics, counters, a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.head = torch.nn.Linear(4, 5)
        self.register_buffer("levels", torch.zeros(2, dtype=torch.int64))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.state_dict().values():
                # Few bits, so that every float format holds them.
                value.copy_(torch.randint(1, 8, value.shape, generator=generator))


TRAINED = Net(1).state_dict()


def loaded(path: Path, **options: Any) -> tuple[State, str]:
    """State of a fresh network after loading, and what was said."""
    network = Net(2)
    note = nn.copy_into(network, nn.read_checkpoint(path), **options)
    return network.state_dict(), note


def floats(change: Callable[[torch.Tensor], object]) -> State:
    return {n: change(v) if v.is_floating_point() else v for n, v in TRAINED.items()}


def prefixed(prefix: str, state: State = TRAINED) -> State:
    return collections.OrderedDict((prefix + name, value) for name, value in state.items())


def without(*endings: str) -> State:
    return {n: v for n, v in TRAINED.items() if not n.endswith(endings)}


class Record:
    """What a framework puts into its checkpoints beside the parameters."""

    def __init__(self) -> None:
        self.value = 1


class Attributes(dict):  # type: ignore[type-arg]
    """A dict of a class of its own."""


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


def test_nan_is_only_taken_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    for bad in (float("nan"), float("inf"), 1e300):  # the last one is infinite once it is cast
        weights = TRAINED["head.weight"].double().clone()
        weights[1, 1] = bad
        torch.save({**TRAINED, "head.weight": weights}, path)
        before = Net(2)
        with pytest.raises(
            ModelError, match=r"NaN or infinite .* 1 tensor \(head.weight\)"
        ) as found:
            nn.load_checkpoint(before, path)
        assert "--allow-nan" in str(found.value)
        assert torch.equal(before.head.bias, Net(2).head.bias)  # nothing was changed
        state, _ = loaded(path, allow_nan=True)
        assert not torch.isfinite(state["head.weight"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": torch.zeros(5, 4, device="meta")}, "no values .a meta tensor"),
        ({"head.weight": torch.zeros(4, 5)}, r"\[4, 5\] float32 for \[5, 4\] float32"),
        ({"head.weight": torch.zeros(5, 4, dtype=torch.int8)}, r"int8 for \[5, 4\] float32"),
        ({"head.weight": torch.zeros(5, 4, dtype=torch.complex64)}, "complex64 for"),
        ({"levels": torch.zeros(2)}, r"\[2\] float32 for \[2\] int64"),
        ({"more": torch.zeros(2)}, r"1 unexpected \(module.more\)"),
        ({"head.weight": np.array(["a"] * 20)}, r"1 missing \(head.weight\)"),
        ({"head.weight": 3}, r"head.weight: a number for \[5, 4\] float32"),
    ],
)
def test_single_misfits(change: State, message: str, tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("module.", {**TRAINED, **change})}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=message) as found:
        loaded(tmp_path / "net.pt")
    assert len(str(found.value).splitlines()) == 1 and "\x1b" not in str(found.value)


def test_integers_are_not_rounded(tmp_path: Path) -> None:
    torch.save({**TRAINED, "levels": torch.tensor([2**40, 1])}, tmp_path / "net.pt")
    narrow = Net(2)
    narrow.levels = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(ModelError, match="values in levels that int32 cannot hold"):
        nn.load_checkpoint(narrow, tmp_path / "net.pt")


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"model": net, "epoch": 3}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_refused(wrap: Any, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(wrap(Net(1)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"whole pickled module .*Net.*state_dict\(\)"):
        nn.read_checkpoint(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


class Evaluated(Trap):
    def __reduce__(self) -> tuple[object, tuple[str]]:  # type: ignore[override]
        return eval, (f"__import__('os').mkdir({str(self.folder)!r})",)


class Called(Trap):
    def __reduce__(self) -> tuple[object, tuple[object]]:  # type: ignore[override]
        return np.save, (self.folder, np.zeros(1))  # type: ignore[return-value]


@pytest.mark.parametrize("trap", [Trap, Evaluated, Called])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_beside_the_parameters_is_executed(
    trap: type[Trap], zipped: bool, tmp_path: Path
) -> None:
    path, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    torch.save(
        {"state_dict": TRAINED, "x": trap(sprung)}, path, _use_new_zipfile_serialization=zipped
    )
    if trap is Called:  # a function of another package is data that nobody needs
        assert loaded(path)[1] == "ignored x"
    else:
        with pytest.raises(ModelError, match=r"asks for (posix|nt|builtins)\.(mkdir|eval), which"):
            loaded(path)
    assert [file.name for file in tmp_path.iterdir()] == ["trap.pt"]


def test_numpy_that_lies_about_its_dtype(tmp_path: Path) -> None:
    """A record of objects in bytes makes NumPy's own reader follow any pointer."""

    class Lie:
        def __reduce__(self) -> Any:
            dtype = np.dtype("V8")
            make = np.zeros(1).__reduce__()[0]
            return make, (np.ndarray, (0,), b"b"), (1, (1,), dtype, False, b"\x01" * 8)

    torch.save({"state_dict": TRAINED, "x": Lie()}, tmp_path / "net.pt")
    assert loaded(tmp_path / "net.pt")[1] == "ignored x"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # files of it remain
def test_other_kinds_of_files(tmp_path: Path) -> None:
    def refused(data: bytes, message: str, name: str = "net.pt") -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelError, match=message) as found:
            nn.read_checkpoint(tmp_path / name)
        text = str(found.value)
        assert len(text.splitlines()) == 1 and "\x1b" not in text and len(text) < 500

    refused(b"", "cannot be read")
    refused(b"", "cannot be read", "net.safetensors")
    refused(pickle.dumps(TRAINED), "cannot be read|asks for")
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    refused(script.getvalue(), "TorchScript archive")
    arrays = io.BytesIO()
    np.savez(arrays, a=np.zeros(2))
    refused(arrays.getvalue(), "zip archive that torch.save did not write")
    new = io.BytesIO()
    torch.save(TRAINED, new, pickle_protocol=4)
    refused(new.getvalue(), "cannot be read")
    whole = io.BytesIO()
    torch.save(TRAINED, whole)
    with zipfile.ZipFile(whole) as archive:
        assert any(name.endswith("data.pkl") for name in archive.namelist())


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pt")
    for path in (tmp_path / "net.pt", tmp_path, Path("/dev/zero")):
        with pytest.raises(ModelError, match="is not a file"):
            nn.read_checkpoint(path)
        with pytest.raises(ModelError, match="is not a file"):
            nn.file_sha256(path)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_anywhere(seed: int, tmp_path: Path) -> None:
    """Altered bytes give an error of ours, or a network: never another error."""
    rng = np.random.default_rng(seed)
    print(f"seed {seed}")
    whole = tmp_path / "net.pt"
    content = {"state_dict": prefixed("module."), "a": np.float32(1), "b": Record()}
    torch.save(content, whole, _use_new_zipfile_serialization=bool(seed % 2))
    data = bytearray(whole.read_bytes())
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(0, min(len(data), 1500))] = rng.integers(0, 256)
    whole.write_bytes(data)
    try:
        loaded(whole)
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
