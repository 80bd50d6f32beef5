"""Core ATen operators of an exported program, one node at a time.

`ExportedProgram.run_decompositions` traces the whole program again, which for a small network takes
longer than all passes and code generation behind it. Nearly every network consists of operators
that stay and of a few composites whose parts do not depend on what surrounds them. Those are
decomposed one by one here, each kind and shape once. A program with anything else (an operator that
writes in place, one whose parts again hold operators that are to be kept) is traced as a whole.

Both ways give the same operators in the same order.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

_WHOLE = (
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten._pad_circular.default,
    torch.ops.aten.col2im.default,
    torch.ops.aten.max_unpool2d.default,
    torch.ops.aten.max_unpool3d.default,
)
"""Operators that are not decomposed: a product of rank 3 would come apart into views, circular
padding and fold into assignments to a tensor without values, unpooling into sizes of the batch."""

_aten = torch.ops.aten
_BY_THEMSELVES = frozenset(
    {
        _aten.adaptive_avg_pool2d.default,
        _aten.batch_norm.default,
        _aten.chunk.default,
        _aten.contiguous.default,
        _aten.conv2d.default,
        _aten.conv2d.padding,
        _aten.detach.default,
        _aten.dropout.default,
        _aten.expand_as.default,
        _aten.flatten.using_ints,
        _aten.hardtanh.default,
        _aten.layer_norm.default,
        _aten.max_pool2d.default,
        _aten.numpy_T.default,
        _aten.prelu.default,
        _aten.relu6.default,
        _aten.reshape.default,
        _aten.silu.default,
        _aten.square.default,
        _aten.to.device,
        _aten.to.dtype,
        _aten.to.dtype_layout,
        _aten.to.other,
        _aten.type_as.default,
        _aten.view_as.default,
        _aten.where.Scalar,
        _aten.where.ScalarOther,
        _aten.where.ScalarSelf,
    }
)
"""Composites whose parts are core operators, whatever their arguments."""


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *rest: Any
) -> Any:
    """`batch_norm` with given statistics, as PyTorch decomposes it for inference."""
    momentum, eps, _ = rest
    if training:
        raise NotImplementedError("statistics of a batch, which the whole program's trace knows")
    made = _aten._native_batch_norm_legit_no_training
    return made.default(x, weight, bias, mean, variance, momentum, eps)[0]


_EVALUATION: dict[Any, Callable[..., Any]] = {_aten.batch_norm.default: _batch_norm}
"""Operators whose own decomposition by the dispatcher is that of training."""

Table = dict[Any, Any]


def decompositions() -> Table:
    """PyTorch's own, but of `_WHOLE`."""
    # As a plain dictionary: PyTorch's own looks through all registered operators at every access.
    table: Table = torch.export.default_decompositions().materialize()
    for kept in _WHOLE:
        table.pop(kept, None)
    return table


def decompose(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The graph of a program in core ATen operators, parameters as attributes.

    Nodes keep ``nn_module_stack`` and ``stack_trace`` of those that they are parts of; ``val``
    describes each tensor.

    Args:
        program: of `torch.export.export`, without gradients.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch.export
        table = decompositions()
        graph = program.module(check_guards=False)
        assert isinstance(graph, fx.GraphModule)
        if not _one_by_one(graph, table):
            graph = program.run_decompositions(table).module(check_guards=False)
            assert isinstance(graph, fx.GraphModule)
        _without_writes(graph)
    return graph


def _without_writes(graph: fx.GraphModule) -> None:
    """Drop what an exported program does last: it copies into inputs and buffers what was written.

    Within the call, who reads a tensor after it was written reads the value computed for it.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_aten.copy_.default):
        target, value = node.args[:2]
        assert target.op in ("placeholder", "get_attr"), "other writes are functions by now"
        node.replace_all_uses_with(value)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _one_by_one(graph: fx.GraphModule, table: Table) -> bool:
    """Decompose each node by itself; returns False, with nothing done, where that is not enough."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    if any(node.op == "call_module" for node in graph.graph.nodes):
        return False
    if not all(_is_plain(node, table) or node.target in _BY_THEMSELVES for node in calls):
        return False
    parts: dict[Hashable, fx.Graph] = {}
    composites = [node for node in calls if not _is_plain(node, table)]
    for node in composites:
        if _key(node) not in parts:
            try:
                made = _trace(node, table)
            except Exception:  # what cannot be traced by itself is traced in its program
                return False
            if not all(_is_plain(part, table) for part in made.nodes if part.op != "placeholder"):
                return False
            parts[_key(node)] = made
    for node in composites:
        _inline(graph.graph, node, parts[_key(node)])
    _read_sizes_of_inputs(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return True


def _is_plain(node: fx.Node, table: Table) -> bool:
    """Whether a node stays as it is."""
    if node.op == "output" or node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
    if node.target in _WHOLE or node.target is _aten.sym_size.int:
        return True
    writes = node.target._schema.is_mutable
    return not writes and node.target not in table and not node.target._can_decompose()


def _key(node: fx.Node) -> Hashable:
    """What the parts of a node depend on: operator, constants, and the shapes of its tensors."""
    leaves, spec = _pytree.tree_flatten((node.args, node.kwargs))
    return node.target, spec, tuple(_described(leaf) for leaf in leaves)


def _described(leaf: Any) -> Hashable:
    if not isinstance(leaf, fx.Node):
        return type(leaf).__name__, str(leaf)
    value = leaf.meta["val"]
    if not isinstance(value, torch.Tensor):
        return "symbol", str(value)
    return str(value.dtype), str(tuple(value.shape)), str(value.stride())


def _trace(node: fx.Node, table: Table) -> fx.Graph:
    """The parts of a node, as a graph whose placeholders are its tensors and symbols in order."""
    leaves, spec = _pytree.tree_flatten((node.args, node.kwargs))
    nodes = [leaf for leaf in leaves if isinstance(leaf, fx.Node)]

    def call(*values: Any) -> Any:
        given = iter(values)
        filled = [next(given) if isinstance(leaf, fx.Node) else leaf for leaf in leaves]
        args, kwargs = _pytree.tree_unflatten(filled, spec)
        target: Any = node.target
        return _EVALUATION.get(target, target)(*args, **kwargs)

    traced = make_fx(call, decomposition_table=table)
    return traced(*(each.meta["val"] for each in nodes)).graph


def _inline(graph: fx.Graph, node: fx.Node, parts: fx.Graph) -> None:
    """Put the parts of a node in its place."""
    leaves, _ = _pytree.tree_flatten((node.args, node.kwargs))
    given = iter([leaf for leaf in leaves if isinstance(leaf, fx.Node)])
    made: dict[fx.Node, fx.Node] = {}
    for part in parts.nodes:
        if part.op == "placeholder":
            made[part] = next(given)
        elif part.op == "output":
            _replace(node, fx.map_arg(part.args[0], made.__getitem__))
        else:
            args, kwargs = (fx.map_arg(each, made.__getitem__) for each in (part.args, part.kwargs))
            with graph.inserting_before(node):
                name = part.target.__name__.split(".")[0]
                new = graph.create_node("call_function", part.target, args, kwargs, name=name)
            new.meta = {**node.meta, **part.meta}
            made[part] = new
    graph.erase_node(node)


def _read_sizes_of_inputs(graph: fx.Graph) -> None:
    """Read each symbol where it comes from: once, of an input."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    sources = {
        str(size): (node, axis)
        for node in reversed(inputs)
        for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ()))
        if isinstance(size, torch.SymInt)
    }
    first = next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
    made: dict[str, fx.Node] = {}
    for node in graph.find_nodes(op="call_function", target=_aten.sym_size.int):
        symbol = str(node.meta["val"])
        if symbol not in sources:
            continue
        if symbol not in made:
            with graph.inserting_before(first):
                call = ("call_function", node.target, sources[symbol])
                made[symbol] = graph.create_node(*call, name="sym_size_int")
            made[symbol].meta = {"val": node.meta["val"]}
        node.replace_all_uses_with(made[symbol])


def _replace(node: fx.Node, result: Any) -> None:
    """Let the users of a node use a result, which has several tensors where the node's has."""
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
        return
    for user in list(node.users):
        assert user.target is operator.getitem, "several results are read one by one"
        user.replace_all_uses_with(result[user.args[1]])
        user.graph.erase_node(user)
