from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tvm_insta import nn
from tvm_insta.errors import ModelError
from tvm_insta.nn.checkpoint import OPTIONS_KEY, PREPROCESSING_KEY

SUFFIXES = (".safetensors", ".pt", ".pth")


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    network = nn.create("resnet20", seed=4, num_classes=7, select=("stage2", "*.prelu"))
    nn.save_checkpoint(network, path, metadata={"note": "hello"})
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").touch()
    # Readable by whom the umask allows, so that an installed package serves every user.
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode

    # num_classes and select come from the file.
    again = nn.create("resnet20", "insta", checkpoint=path)
    assert again.options == network.options
    assert not again.training
    assert _same(again, network)
    assert nn.read_checkpoint(path).metadata["note"] == "hello"


def test_options_round_trip_as_json() -> None:
    for select in (None, (), ("stage1", "*.prelu")):
        options = nn.ModelOptions("resnet18", "insta_plus", 5, select, True, "variance")
        assert nn.ModelOptions.from_json(options.to_json()) == options
    for text in ("", "[]", '{"model": "resnet18"}'):
        with pytest.raises(ModelError, match="model options"):
            nn.ModelOptions.from_json(text)


def test_plain_state_dict(tmp_path: Path) -> None:
    network = nn.create("resnet20", seed=4)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    safetensors.torch.save_file(network.state_dict(), tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        assert nn.read_checkpoint(tmp_path / name).metadata == {}
        assert _same(nn.create("resnet20", checkpoint=tmp_path / name), network)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    network = nn.create("resnet20").half()
    torch.save(network.state_dict(), tmp_path / "net.pt")
    loaded = nn.create("resnet20", checkpoint=tmp_path / "net.pt")
    assert _same(loaded, network.float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet18"}, "model 'resnet20', not 'resnet18'"),
        ({"variant": "baseline"}, "variant 'insta', not 'baseline'"),
        ({"num_classes": 11}, "num_classes 10, not 11"),
        ({"select": "stage1"}, "select None, not "),
        ({"reuse_statistics": True}, "reuse_statistics False, not True"),
        ({"statistic": "mean"}, "statistic 'third_moment', not 'mean'"),
    ],
)
def test_what_is_asked_must_agree(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    nn.save_checkpoint(nn.create("resnet20"), path)
    with pytest.raises(ModelError, match=message):
        nn.create(**({"model": "resnet20", "checkpoint": path} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_file(suffix: str, share: float, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"net{suffix}", tmp_path / f"cut{suffix}"
    nn.save_checkpoint(nn.create("resnet20"), whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"cut.* cannot be read .*truncated, damaged"):
        nn.create("resnet20", checkpoint=cut)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_noise_and_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    for data in (b"not a checkpoint\n" * 40, bytes(range(256)) * 40):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="cannot be read"):
            nn.read_checkpoint(path)


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_executed(zipped: bool, tmp_path: Path) -> None:
    path, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    torch.save({"w": _Trap(sprung)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="objects other than tensors"):
        nn.create("resnet20", checkpoint=path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap works


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds list, not a state dict"),
        ({}, "holds dict, not a state dict"),
        ({"state_dict": {"w": 1.0}}, "not a state dict with tensors"),
        (torch.zeros(3), "holds Tensor, not a state dict"),
    ],
)
def test_not_a_state_dict(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=message):
        nn.read_checkpoint(tmp_path / "net.pt")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(nn.create("resnet20").state_dict(), path)
    network = nn.create("resnet18")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        nn.load_checkpoint(network, path)
    text = str(caught.value)
    assert "does not fit resnet18 insta" in text
    # Stage 4 is missing, stages 1 to 3 have two blocks too many, and widths differ.
    assert "missing (stage4.0.threshold.b, stage4.0.threshold.a, " in text
    assert "unexpected (stage1.4.threshold.b, " in text
    assert "stem.conv.weight: [16, 3, 3, 3] float32 for [64, 3, 7, 7] float32" in text
    assert len(text) < 1000
    # Nothing was changed.
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_single_misfits(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    good = nn.create("resnet20").state_dict()

    def reject(state: dict[str, torch.Tensor], message: str) -> None:
        torch.save(state, path)
        with pytest.raises(ModelError, match=message):
            nn.create("resnet20", checkpoint=path)

    reject({n: v for n, v in good.items() if n != "fc.bias"}, r"1 missing \(fc.bias\)")
    reject(good | {"extra": torch.zeros(1)}, r"1 unexpected \(extra\)")
    reject(good | {"fc.bias": torch.zeros(9)}, r"fc.bias: \[9\] float32 for \[10\] float32")
    integers = torch.zeros(10, dtype=torch.int64)
    reject(good | {"fc.bias": integers}, r"fc.bias: \[10\] int64 for \[10\] float32")


def test_paths(tmp_path: Path) -> None:
    network = nn.create("resnet20")
    with pytest.raises(ModelError, match=r"suffix '.bin'; allowed are .safetensors, .pt, .pth"):
        nn.save_checkpoint(network, tmp_path / "net.bin")
    with pytest.raises(ModelError, match="is not a file"):
        nn.read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ModelError, match="unknown checkpoint 'digit'; did you mean 'digits'"):
        nn.create("resnet20", checkpoint="digit")
    with pytest.raises(ModelError, match="cannot be written"):
        nn.save_checkpoint(network, tmp_path / "no" / "folder.pt")
    folder = tmp_path / "folder.pt"
    folder.mkdir()
    with pytest.raises(ModelError, match="is not a file"):
        nn.create("resnet20", checkpoint=folder)


def test_preprocessing_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    network = nn.create("resnet20")
    nn.save_checkpoint(network, path)
    with pytest.raises(ModelError, match="tells of no preprocessing"):
        nn.preprocessing(path)

    good = nn.preprocessing("resnet18")
    nn.save_checkpoint(network, path, preprocessing=good)
    assert nn.preprocessing(path) == good
    for key, value in {
        "resize": [32],
        "interpolation": "magic",
        "mode": "L",
        "scale": 0,
        "mean": [0.5, 0.5, float("nan")],
        "std": [1.0, 0.0, 1.0],
        "layout": "NHWC",
        "classes": [1, 2],
    }.items():
        nn.save_checkpoint(network, path, preprocessing=good | {key: value})
        with pytest.raises(ModelError, match=f"has {key} = "):
            nn.preprocessing(path)
    for text in ("nonsense", "{}", json.dumps(good | {"more": 1})):
        nn.save_checkpoint(network, path, metadata={PREPROCESSING_KEY: text})
        with pytest.raises(ModelError, match="preprocessing of"):
            nn.preprocessing(path)


def test_damaged_options(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    tensors = nn.create("resnet20").state_dict()
    safetensors.torch.save_file(tensors, path, metadata={OPTIONS_KEY: "{"})
    with pytest.raises(ModelError, match="damaged options"):
        nn.create("resnet20", checkpoint=path)
