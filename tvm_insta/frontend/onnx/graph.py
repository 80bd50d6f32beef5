"""The graph of an ONNX file as plain data: what the guards have passed, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STANDARD = frozenset({"", "ai.onnx"})
"""Names of ONNX's own domain."""


@dataclass(frozen=True)
class Node:
    """One operator call.

    Attributes:
        op: operator, e.g. "Conv".
        domain: "" for ONNX's own operators.
        name: of the node; made from its first output where the file has none.
        inputs: names of tensors; "" stands for an input that is not given.
        outputs: names of tensors; "" stands for an output that nobody reads.
        attributes: str, int, float, tuples of them, or numpy arrays.
        branches: of an If: what is done where its condition holds, and where not. Their inputs are
            what they read of the graph around them: those of the node behind the condition.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    branches: tuple[Graph, ...] = ()

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op})"


@dataclass(frozen=True)
class Input:
    """An input of the graph.

    Attributes:
        name: as the file has it.
        shape: a number per dimension, None where the file leaves it open; None if it has no shape.
        element: ONNX element type, e.g. `onnx.TensorProto.FLOAT`.
    """

    name: str
    shape: tuple[int | None, ...] | None
    element: int


@dataclass(frozen=True)
class Initialiser:
    """A constant of the file.

    Attributes:
        array: its values; 2- and 4-bit integers as 8-bit ones, float16, bfloat16 and float64 as
            float32.
        element: ONNX element type in the file.
        doubles: the same values in float64, where the file has few of them: shapes are computed in
            the type that the file says.
    """

    array: Array
    element: int
    doubles: Array | None = None

    @property
    def exact(self) -> Array:
        """The values as the file has them, where shapes may be computed with them."""
        return self.array if self.doubles is None else self.doubles


@dataclass(frozen=True)
class Graph:
    """A checked graph: names are unique, every name is defined before it is read.

    Attributes:
        nodes: in an order in which they can be executed.
        inputs: that are no initialisers.
        outputs: names of tensors.
        initialisers: by name.
        opsets: version per domain; 1 for domains that the file does not import.
        notes: sentences for the report: what was read in another way than it was written.
        properties: text that the file keeps beside the graph.
        files: other files that hold its tensors.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    initialisers: Mapping[str, Initialiser]
    opsets: Mapping[str, int]
    notes: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 1))

    def version(self, domain: str) -> int:
        """Version of the operators of ``domain``."""
        return self.opset if domain in STANDARD else self.opsets.get(domain, 1)


def is_float(array: Array) -> bool:
    """Whether the values are floating point."""
    return bool(np.issubdtype(array.dtype, np.floating))
