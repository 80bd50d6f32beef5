"""The manifest: a round trip, and one clear sentence for everything that can be wrong with it."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os

import pytest

from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.manifest import (
    FileEntry,
    Kernel,
    Layer,
    Manifest,
    Schedule,
    TensorInfo,
    sealed,
)
from tvm_insta.runtime.schema import SchemaError


def example(**changes) -> Manifest:
    fields = {
        "name": "model",
        "form": "c",
        "library": "model.so",
        "files": {"model.so": FileEntry(3, "0" * 64)},
        "target_text": "avx2",
        "target": '{"kind": "llvm"}',
        "machine": "x86_64",
        "needs": ("avx2",),
        "versions": {"tvm": "1", "tvm_ffi": "2", "tvm_insta": "3"},
        "inputs": (TensorInfo("x", ("batch", 4), "float32"),),
        "outputs": (TensorInfo("y", ("batch", 2), "float32"),),
        "max_batch": 8,
        "kernels": (
            Kernel(
                0,
                "k",
                ("input:0", "constant:0"),
                (TensorInfo("v", ("batch", 2), "int32"),),
                ("insta.conv2d_blocked", "add"),
                Schedule("insta_fconv", "tuned", "a block before the convolution"),
            ),
        ),
        "constants": (TensorInfo("constant0", (2, 3, 3, 4), "float32"),),
        "layers": (
            Layer("conv", "conv2d", "binary", ("batch", 2), 100, (2, 3, 3, 4), 1, calls=(0,)),
            Layer("fc", "dense", "float", ("batch", 2), 8, reason="it is the last layer"),
        ),
        "preprocessing": {"resize": [8, 8], "mode": "L"},
        "classes": ("cat", "dog"),
        "source": {"model": "resnet20", "seed": 3},
        "options": {"runtime": "c"},
        "working_set": 1234,
    }
    return Manifest(**{**fields, **changes})


def test_round_trip(tmp_path):
    manifest = example()
    assert manifests.read(manifests.write(tmp_path, manifest)) == manifest
    bare = example(preprocessing=None, classes=None, working_set=None, layers=())
    assert manifests.read(manifests.write(tmp_path, bare)) == bare
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


REQUIRED = [
    field.name
    for field in dataclasses.fields(Manifest)
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
]


def test_the_numbers_that_a_layer_computes_in(tmp_path):
    """Manifests of before do not say it, and load."""
    layer = manifests.Layer("fc", "dense", "float", (1, 8), 64, compute_dtype="bf16")
    path = manifests.write(tmp_path, example(layers=(layer,)))
    assert manifests.read(path).layers == (layer,)
    data = json.loads(path.read_text())
    data["layers"][0]["compute_dtype"] = "fp8"
    path.write_text(json.dumps(sealed(data)))
    with pytest.raises(ArtefactError, match="compute_dtype of layer fc is 'fp8'; allowed is one"):
        manifests.read(path)
    del data["layers"][0]["compute_dtype"]
    path.write_text(json.dumps(sealed(data)))
    assert manifests.read(path).layers[0].compute_dtype == ""


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_key_is_named(tmp_path, key):
    path = manifests.write(tmp_path, example())
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(sealed(data)))
    with pytest.raises(ArtefactError, match=f"key {key} is missing"):
        manifests.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_batch": "8"}, "max_batch is a str, a int is needed"),
        ({"max_batch": True}, "max_batch is a bool, a int is needed"),
        ({"max_batch": 0}, "max_batch is 0; it must be at least 1"),
        ({"images_at_once": 0}, "images_at_once is 0; allowed is 1 to max_batch, 8"),
        ({"images_at_once": 9}, "images_at_once is 9; allowed is 1 to max_batch, 8"),
        ({"form": "jar"}, "form is 'jar'; allowed are vm and c"),
        ({"library": "other.so"}, "lists no file other.so"),
        ({"inputs": []}, "0 inputs and 1 outputs"),
        ({"inputs": [{"name": "x", "shape": [1]}]}, r"inputs\[0\]\.dtype is missing"),
        ({"inputs": [{"name": "x", "shape": [1.5], "dtype": "int8"}]}, r"inputs\[0\]\.shape\[0\]"),
        ({"needs": "avx2"}, "needs is a str, a list is needed"),
        ({"files": {"model.so": {"bytes": 3, "sha256": 7}}}, r"files\.model\.so\.sha256 is a int"),
        ({"extra": 1}, "unknown key extra"),
        ({"schema": "tvm_insta.artefact/99"}, "has schema 'tvm_insta.artefact/99'"),
        ({"schema": "tvm_insta.artefact/2"}, "artefact/2'.*compile the model again"),
        ({"preprocessing": {"mode": "L"}}, "preprocessing has no key resize"),
        ({"preprocessing": {"resize": [8, 8], "mode": 3}}, "mode is a int, a str"),
        ({"preprocessing": {"resize": [8, 0], "mode": "L"}}, r"resize \[8, 0\]"),
        ({"constants": []}, "argument of kernel k is 'constant:0'"),
    ],
)
def test_wrong_values_are_named(tmp_path, change, message):
    path = manifests.write(tmp_path, example())
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **change})))
    with pytest.raises(ArtefactError, match=message):
        manifests.read(path)


@pytest.mark.parametrize(
    ("entry", "change", "message"),
    [
        (
            "kernels",
            {"schedule": "insta_fconv, tuned"},
            r"kernels\[0\].schedule is a str, an object",
        ),
        (
            "kernels",
            {"schedule": {"rule": "r", "state": "new", "fallback": None}},
            "schedule state of kernel k is 'new'; allowed is one of tuned, similar, default, stale",
        ),
        ("kernels", {"schedule": {"rule": "r"}}, "schedule.state is missing"),
        ("layers", {"calls": [1]}, r"calls of layer conv is \[1\]; allowed is 0 to 0"),
        ("layers", {"calls": [-1]}, "calls of layer conv"),
        ("layers", {"kind": "ternary"}, "kind of layer conv is 'ternary'; allowed is binary or"),
    ],
)
def test_wrong_kernels_and_layers_are_named(tmp_path, entry, change, message):
    path = manifests.write(tmp_path, example())
    data = json.loads(path.read_text())
    data[entry][0].update(change)
    path.write_text(json.dumps(sealed(data)))
    with pytest.raises(ArtefactError, match=message):
        manifests.read(path)


@pytest.mark.parametrize("name", ["../model.so", "/etc/passwd", "..", ""])
def test_files_outside_the_folder_are_refused(tmp_path, name):
    path = manifests.write(tmp_path, example())
    data = json.loads(path.read_text())
    data["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(sealed(data)))
    with pytest.raises(ArtefactError, match="only plain file names"):
        manifests.read(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", "null", '"model"', "\x00\x01", "{" * 100000, "nonsense"]
)
def test_damaged_json(tmp_path, text):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(ArtefactError, match=r"no valid JSON|has schema None"):
        manifests.read(path)


def test_truncated_at_every_length(tmp_path):
    text = manifests.write(tmp_path, example()).read_text()
    path = tmp_path / "cut.json"
    for length in range(0, len(text) - 2, 7):
        path.write_text(text[:length])
        with pytest.raises(ArtefactError):
            manifests.read(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ArtefactError, match="no valid JSON"):
        manifests.read(path)


def test_missing_file(tmp_path):
    with pytest.raises(ArtefactError, match=r"cannot read .* give the folder"):
        manifests.read(tmp_path / "model.json")


def test_a_full_disk_leaves_the_old_manifest(tmp_path, monkeypatch):
    manifests.write(tmp_path, example())

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtefactError, match="No space left on device"):
        manifests.write(tmp_path, example(max_batch=99))
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert manifests.read(tmp_path / "model.json").max_batch == 8


def test_values_that_json_lacks(tmp_path):
    with pytest.raises(ArtefactError, match="JSON cannot express"):
        manifests.write(tmp_path, example(options={"path": tmp_path}))
    with pytest.raises(ArtefactError, match="JSON cannot express"):
        manifests.write(tmp_path, example(options={"scale": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_hash_and_size(tmp_path):
    (tmp_path / "model.so").write_bytes(b"abc")
    manifest = example(files=manifests.describe_files(tmp_path, ["model.so"]))
    manifests.check_files(tmp_path, manifest)
    (tmp_path / "model.so").write_bytes(b"abd")
    with pytest.raises(ArtefactError, match="SHA-256"):
        manifests.check_files(tmp_path, manifest)
    (tmp_path / "model.so").write_bytes(b"ab")
    with pytest.raises(ArtefactError, match="has 2 bytes, the manifest says 3"):
        manifests.check_files(tmp_path, manifest)
    (tmp_path / "model.so").unlink()
    with pytest.raises(ArtefactError, match="cannot read"):
        manifests.check_files(tmp_path, manifest)


def test_reading_keeps_no_frames(tmp_path):
    """An error of a union's alternative would keep the caller's locals until Python collects."""
    manifests.write(tmp_path, example())
    gc.collect()
    gc.disable()
    try:
        manifests.read(tmp_path / manifests.FILE_NAME)
        assert not [found for found in gc.get_objects() if isinstance(found, SchemaError)]
    finally:
        gc.enable()


def test_a_layer_knows_its_schedule(tmp_path):
    manifest = manifests.read(manifests.write(tmp_path, example()))
    conv, dense = manifest.layers
    assert conv.schedule == manifest.kernels[0].schedule is not None and dense.schedule is None
