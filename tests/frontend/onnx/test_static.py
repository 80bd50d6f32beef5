"""What exporters compute from shapes is known when a file is compiled, or refused in a sentence."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

import tvm_insta
from tests.frontend.torch.graphs import Network
from tvm_insta.errors import ImportModelError

IMAGE = torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(0))


def written(function):
    """A file of torch.onnx with a dynamic batch."""
    file = io.BytesIO()
    torch.onnx.export(
        Network(function),
        (IMAGE[:2],),
        file,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    return onnx.load_from_string(file.getvalue())


def padded_to(x, small):
    """As U-Nets pad what they have enlarged to the size of what they kept."""
    large = F.interpolate(small, scale_factor=2.0)
    down, right = x.shape[2] - large.shape[2], x.shape[3] - large.shape[3]
    return F.pad(large, [right // 2, right - right // 2, down // 2, down - down // 2])


SHAPES = {
    "padding to a size": lambda x: torch.cat([x, padded_to(x, F.max_pool2d(x, 2))], 1),
    "cut to a size": lambda x: x + F.interpolate(F.max_pool2d(x, 2), size=x.shape[2:]),
    "half of the channels": lambda x: x[:, x.shape[1] // 2 :].flip(1),
    "channels shuffled": lambda x: (
        x.view(x.shape[0], 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
    ),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    artefact = tvm_insta.build_onnx(written(SHAPES[name]), max_batch=3)
    np.testing.assert_allclose(artefact(IMAGE.numpy()), SHAPES[name](IMAGE).numpy(), rtol=1e-6)


def assigned(x):
    y = x.clone()
    y[:, 2:] = y[:, 2:] * 2
    return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_assignments_to_parts_are_refused():
    with pytest.raises(ImportModelError, match=r"a Range counts the images of the batch.*cat"):
        tvm_insta.build_onnx(written(assigned))
    artefact = tvm_insta.build(Network(assigned), IMAGE[:1], max_batch=3)
    np.testing.assert_allclose(artefact(IMAGE.numpy()), assigned(IMAGE).numpy(), rtol=1e-6)
