"""``--preprocess``: presets and JSON."""

from __future__ import annotations

import json

import pytest

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime.preprocess import Preprocessing
from tvm_insta.runtime.preprocess_option import described


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "unit"])
def test_presets_take_the_size_of_the_network(name):
    found = described(name, [3, 40, 48])
    how = Preprocessing.from_dict(found.preprocessing)
    assert how.resize == (40, 48) and how.mode == "RGB" and how.layout == "NCHW"
    assert how.scale == pytest.approx(1 / 255) and found.classes is None
    assert len(how.mean) == len(how.std) == (0 if name == "unit" else 3)


def test_the_common_numbers():
    found = described("imagenet", [3, 224, 224]).preprocessing
    assert found["mean"] == [0.485, 0.456, 0.406] and found["std"] == [0.229, 0.224, 0.225]
    assert described("none", [3, 8, 8]).preprocessing is None
    assert described("none", [784]).preprocessing is None
    assert described("unit", [1, 28, 28]).preprocessing["mode"] == "L"


def test_json_fills_in_what_it_does_not_say(tmp_path):
    text = json.dumps({"mean": [0.5], "std": [0.25], "classes": ["a", "b"]})
    found = described(text, [1, 28, 20])
    assert found.classes == ("a", "b")
    assert found.preprocessing == {
        "resize": [28, 20],
        "interpolation": "bilinear",
        "mode": "L",
        "scale": 1 / 255,
        "mean": [0.5],
        "std": [0.25],
        "layout": "NCHW",
    }
    path = tmp_path / "how.json"
    path.write_text(text)
    assert described(str(path), [1, 28, 20]) == found
    last = described('{"layout": "NHWC"}', [28, 20, 3]).preprocessing
    assert last["resize"] == [28, 20] and last["mode"] == "RGB"


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("imagnet", [3, 8, 8], "must be one of imagenet, cifar10, unit, none, a JSON object"),
        ("imagenet", [784], r"takes \[784\], which is no image"),
        ("imagenet", [4, 8, 8], "images have 1 or 3 channels"),
        ("imagenet", [1, 8, 8], "3 numbers in mean; mode L needs 1"),
        ("imagenet", ["batch", 8, 8], "no image"),
        ("{", [3, 8, 8], "not JSON"),
        ("{" * 100_000, [3, 8, 8], "not JSON"),
        ('{"resize": [9, 8]}', [3, 8, 8], r"size \[9, 8\], but the network takes \[3, 8, 8\]"),
        ('{"mode": "L"}', [3, 8, 8], "mode L"),
        ('{"crop": 3}', [3, 8, 8], "unknown key crop; keys are classes, interpolation"),
        ('{"mean": [NaN, 0, 0]}', [3, 8, 8], "NaN or infinite"),
        ('{"classes": [1]}', [3, 8, 8], "list of names"),
        ('{"layout": "NHWC"}', [3, 8, 8], "channels, last in the shape"),
        ('{"layout": [1]}', [3, 8, 8], "layout"),
    ],
)
def test_refusals(text, shape, said):
    with pytest.raises((InputError, ArtefactError), match=said) as found:
        described(text, shape)
    assert len(str(found.value).splitlines()) == 1 and len(str(found.value)) < 100_200


def test_a_file_that_is_no_object(tmp_path):
    for text in ("[1]", "3", "null"):
        (tmp_path / "how.json").write_text(text)
        with pytest.raises(InputError, match="no object"):
            described(str(tmp_path / "how.json"), [3, 8, 8])
