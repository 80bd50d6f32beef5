"""Refusals of code that looks at values computed from the input, with the user's line."""

from __future__ import annotations

from typing import Any

import torch

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.graph import base_name
from tvm_insta.frontend.torch.operators.refusal import user_line

_Tensor = torch.Tensor

LOOKS: dict[Any, str] = {
    _Tensor.item: "reads a number with .item()",
    _Tensor.tolist: "makes a list of a tensor",
    _Tensor.numpy: "turns a tensor into a numpy array",
    _Tensor.__array__: "turns a tensor into a numpy array",
    _Tensor.__bool__: "branches on a value",
    _Tensor.__float__: "makes a Python number of a tensor",
    _Tensor.__int__: "makes a Python number of a tensor",
    _Tensor.__index__: "indexes with a tensor's value",
    _Tensor.__format__: "writes out a tensor",
    _Tensor.__contains__: "asks whether a tensor contains a value",
}
"""Functions that look at values, and how a sentence says so."""

_INSTEAD: dict[Any, str] = {
    _Tensor.__bool__: "choose with torch.where, or decide on parameters and shapes only",
    _Tensor.__contains__: "choose with torch.where, or decide on parameters and shapes only",
}
_COMPUTE = "compute with the tensor itself, in torch"


def looks_at_value(func: Any, place: str) -> ImportModelError:
    """The refusal of a function that looks at a value."""
    return ImportModelError(
        f"forward {LOOKS[func]} that is computed from the input{place}: "
        f"{_INSTEAD.get(func, _COMPUTE)}"
    )


def refuse_numbers(program: torch.export.ExportedProgram) -> None:
    """Refuse Python's numbers of tensors that operators take: ``alpha=x.mean().item()``.

    Where an operator takes a tensor as well, there is none left.

    Raises:
        ImportModelError: there is one; its line is that of the operator that takes it.
    """
    for node in program.graph.nodes:
        if base_name(node) in ("aten._local_scalar_dense", "aten.item") and node.users:
            line = user_line(next(iter(node.users)))
            raise looks_at_value(_Tensor.item, f" ({line})" if line else "")
