"""Every operator gives what ONNX Runtime gives, on a grid of its attributes and versions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frontend.onnx.cases import CASES
from tests.frontend.onnx.models import agree, by_runtime, by_us, graph
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import load
from tvm_insta.frontend.onnx.operators import find, names

WITHOUT_CASE = {
    "Constant",  # test_constants
    "ConstantOfShape",  # test_folded_tensors
    "Range",  # test_folded_tensors
    "Swish",  # test_newest, ONNX Runtime lacks it
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case.id}")
def test_operator(case):
    agree(case.model(), {"x": case.data}, tolerance=1e-5)
