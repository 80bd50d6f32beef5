"""OpenVINO's FakeQuantize: what it gives, against its formula, and that its layers are packed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import tvm_insta
from tests.frontend.onnx.models import by_us, graph
from tvm_insta.errors import ImportModelError

DOMAIN = {"org.openvinotoolkit": 1}
SEED = 4
RNG = np.random.default_rng(SEED)
X = (RNG.integers(-16, 17, (2, 4, 5, 6)) / 8).astype(np.float32)
ENDS = ("low", "high", "bottom", "top")
CHANNELS = RNG.choice(np.float32([0.5, 1, 2]), (1, 4, 1, 1))
CASES = {
    "unsigned": ((0, 1.5, 0, 1.5), 4),
    "signed": ((-2, 1.75, -2, 1.75), 16),
    "signs": ((0, 0, -1, 1), 2),
    "two places": ((-1, 1, -0.5, 0.5), 2),
    "channels": ((-CHANNELS, CHANNELS, -CHANNELS, CHANNELS), 256),
    "one end per channel": ((0, CHANNELS, 0, CHANNELS), 4),
}


def quantised(x, ends, levels):
    """The formula, in float64."""
    low, high, bottom, top = (np.asarray(end, np.float64) for end in ends)
    width = np.where(high > low, high - low, 1)
    places = np.rint((x - low) / width * (levels - 1)) / (levels - 1) * (top - bottom) + bottom
    return np.where(x <= low, bottom, np.where(x > high, top, places))


def model(ends, levels, weight=None):
    constants = dict(zip(ENDS, map(np.float32, ends), strict=True))
    how = {"levels": levels, "domain": "org.openvinotoolkit", "auto_broadcast": "numpy"}
    nodes = [helper.make_node("FakeQuantize", ["x", *ENDS], ["y"], **how)]
    outputs = ("y",)
    if weight is not None:
        constants["w"] = weight
        nodes.append(helper.make_node("Conv", ["y", "w"], ["c"], "body"))
        outputs = ("c",)
    return graph(nodes, {"x": X}, constants, outputs, batch="N", domains=DOMAIN)


@pytest.mark.parametrize("name", CASES)
def test_formula(name):
    ends, levels = CASES[name]
    (found,) = by_us(model(ends, levels), {"x": X})
    np.testing.assert_allclose(found, quantised(X, ends, levels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name, bits", [("unsigned", 2), ("signed", 4), ("signs", 1)])
def test_layers_behind_it_are_packed(name, bits):
    ends, levels = CASES[name]
    weight = RNG.choice(np.float32([-1, 1]), (3, 4, 2, 2))
    artefact = tvm_insta.build_onnx(model(ends, levels, weight), max_batch=2)
    [layer] = artefact.manifest.layers
    assert layer.bits == bits
    (expected,) = by_us(model(ends, levels, weight), {"x": X})
    np.testing.assert_allclose(artefact(X), expected, rtol=0, atol=1e-5, err_msg=f"seed {SEED}")


@pytest.mark.parametrize(
    "ends, levels, message",
    [
        ((1, 0, 0, 1), 4, "must be below"),
        ((0, 1, 0, 1), 1, "has 1 levels"),
        ((0, np.inf, 0, 1), 4, "must be finite"),
        ((np.zeros((1, 3, 1, 1)), 1, 0, 1), 4, "does not fit"),
    ],
)
def test_refused(ends, levels, message):
    with pytest.raises(ImportModelError, match=message):
        by_us(model(ends, levels), {"x": X})
