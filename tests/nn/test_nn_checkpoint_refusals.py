"""Checkpoints that are refused in one sentence, and code in them that is never executed."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoint_nets import TRAINED, Net, Record, State, loaded, prefixed
from tvm_insta import nn
from tvm_insta.errors import ModelError


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
