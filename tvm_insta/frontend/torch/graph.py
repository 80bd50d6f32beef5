"""Small helpers for graphs of ATen operators."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from tvm_insta.frontend.torch import custom_ops  # noqa: F401  (registers torch.ops.tvm_insta.*)

PARAMETERS = "tvm_insta_parameters"
"""Key of a constant's meta data: the names of the parameters and buffers that it was made of."""

SOURCE = "tvm_insta_source"
"""Key of a node's meta data: the node of the exported graph whose value it has."""

STUFFED = "tvm_insta_stuffed"
"""Key of a node's meta data, where zeros were put between the elements of a tensor: that tensor,
and for each dimension the distance of its elements."""


def name_of(node: Any) -> str:
    """The operator's name of a call, ``"aten.add.Tensor"`` or ``"tvm_insta.levels.default"``."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else ""


def base_name(node: Any) -> str:
    """The operator's name without its overload, ``"aten.add"``."""
    return name_of(node).rpartition(".")[0]


def constant(node: Any) -> torch.Tensor | None:
    """The value of a parameter or buffer, None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(node.graph.owning_module)
    return value.detach() if isinstance(value, torch.Tensor) else None


def shape_of(node: fx.Node) -> list[Any]:
    """The shape of a tensor: ints, and symbolic expressions of the batch."""
    return list(value_of(node).shape)


def value_of(node: fx.Node) -> torch.Tensor:
    """The fake tensor that torch.export computed for a node."""
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor), f"{node} is no tensor"
    return value


def is_tensor(node: Any) -> bool:
    """Whether a node's value is a tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def types_of(node: fx.Node) -> list[torch.dtype]:
    """The types of a node's tensors: of its value, or of several results."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return [each.dtype for each in values if isinstance(each, torch.Tensor)]


def source_of(node: fx.Node) -> str:
    """The name, in the exported graph, of a node with the same value; "" if there is none."""
    return str(node.meta.get(SOURCE, ""))


def call(
    before: fx.Node,
    target: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    source: str = "",
) -> fx.Node:
    """Insert a call in front of a node, with its fake value and the module path of that node."""
    graph = before.graph
    with graph.inserting_before(before):
        node = graph.call_function(target, tuple(args), dict(kwargs or {}))
    node.meta = {
        key: before.meta[key] for key in ("nn_module_stack", "stack_trace") if key in before.meta
    }
    fakes = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    with shapes_only(graph):
        node.meta["val"] = target(*fakes[0], **fakes[1])
    node.meta[SOURCE] = source
    return node


def matrix(node: Any, rank: int) -> torch.Tensor | None:
    """A constant of one matrix ``[..., R, C]``, as ``[R, C]``, of at most `rank` dimensions."""
    value = constant(node)
    if value is None or not 2 <= value.ndim <= rank or value.shape[:-2].numel() != 1:
        return None
    return value.reshape(value.shape[-2:])


def buffer(
    before: fx.Node, value: torch.Tensor, hint: str, *, source: fx.Node | None = None
) -> fx.Node:
    """Insert a constant in front of a node; `source` is the constant that it was made of."""
    graph = before.graph
    module = graph.owning_module
    assert module is not None, "a graph that is rewritten belongs to a module"
    number = len(module._buffers)
    while hasattr(module, f"_{hint}_{number}"):
        number += 1
    name = f"_{hint}_{number}"
    module.register_buffer(name, value.detach().clone())
    with graph.inserting_before(before):
        node = graph.get_attr(name)
    node.meta["val"] = _fake_mode(graph).from_tensor(value.detach(), static_shapes=True)
    if source is not None:
        node.meta[PARAMETERS] = source.meta.get(PARAMETERS, ())
    return node


@contextmanager
def shapes_only(graph: fx.Graph) -> Iterator[None]:
    """Compute shapes in place of values, in the mode in which a program was exported.

    Python's decompositions keep sizes symbolic where those in C++ (constant_pad_nd) want numbers.
    """
    mode = _fake_mode(graph)
    with mode, enable_python_dispatcher(), _no_guards(mode), torch.no_grad():
        yield


def _no_guards(mode: Any) -> AbstractContextManager[Any]:
    """Keep sizes symbolic: a comparison of a size would fix it to the example's from then on."""
    found = mode.shape_env
    return nullcontext() if found is None else found.suppress_guards()


def _fake_mode(graph: fx.Graph) -> Any:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode
    raise AssertionError("an exported graph holds fake tensors")
