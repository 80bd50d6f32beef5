"""Core ATen operators of an exported program, one node at a time.

`ExportedProgram.run_decompositions` traces the whole program again, which for a small network takes
longer than all passes and code generation behind it. Nearly every network consists of operators
that stay, of composites whose parts do not depend on what surrounds them, and of operators that
write into a tensor that nothing else shares. Those are decomposed one by one here, each kind and
shape once. A program with anything else (a write into a view or an input, a composite that holds
operators that are to be kept) is traced as a whole.

Both ways give the same operators in the same order.
"""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import fx
from torch._export.utils import _is_preservable_cia_op
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

from tvm_insta.frontend.torch.graph import shapes_only

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
_APART = frozenset(
    {
        *(_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default),
        *(_aten.mv.default, _aten.dot.default, _aten.addmv.default),
        *(_aten.native_batch_norm.default, _aten._native_batch_norm_legit.default),
        *(_aten._native_batch_norm_legit.no_stats, _aten._batch_norm_with_update.default),
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)
"""Parts by which a composite cannot be told from one that holds an operator of `_WHOLE`, or that
the dispatcher chooses for training."""
_PRODUCTS = frozenset({_aten.einsum.default})
"""Composites that make such parts themselves."""


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *rest: Any
) -> Any:
    """`batch_norm` with given statistics, as PyTorch decomposes it for inference."""
    momentum, eps, _ = rest
    if training:
        raise NotImplementedError("statistics of a batch, which the whole program's trace knows")
    made = _aten._native_batch_norm_legit_no_training
    return made.default(x, weight, bias, mean, variance, momentum, eps)[0]


_GIVEN: dict[Any, Callable[..., Any]] = {
    _aten.batch_norm.default: _batch_norm,
    _aten.lift_fresh_copy.default: _aten.clone.default,
    _aten.detach_.default: lambda x: x,
}
"""Operators that the dispatcher decomposes as for training, or not at all."""


def _unfold(x: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Windows of a dimension, whose elements become the last one, by their indices."""
    axis = dimension % x.ndim
    windows = torch.arange(0, x.shape[axis] - size + 1, step)[:, None] + torch.arange(size)
    indices: list[torch.Tensor | None] = [*([None] * axis), windows]
    return torch.movedim(_aten.index.Tensor(x, indices), axis + 1, -1)


Table = dict[Any, Any]


def decompositions() -> Table:
    """PyTorch's own but of `_WHOLE`, and that of windows."""
    return dict(_decompositions(tuple(torch._C._dispatch_get_all_op_names())))


@functools.lru_cache(maxsize=1)
def _decompositions(_: tuple[str, ...]) -> Table:
    """Found anew where operators were registered: PyTorch looks through all, at every access."""
    table: Table = torch.export.default_decompositions().materialize()
    for kept in _WHOLE:
        table.pop(kept, None)
    table[_aten.unfold.default] = _unfold  # which PyTorch keeps: a view with strides of its own
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
    """Decompose each node by itself; returns False where that is not enough."""
    nodes = list(graph.graph.nodes)
    if any(node.op == "call_module" for node in nodes):
        return False
    parts: dict[Hashable, fx.Graph] = {}
    for node in nodes:
        if node.op != "call_function" or _is_plain(node, table):
            continue
        if not isinstance(node.target, torch._ops.OpOverload):  # it holds a graph of its own
            return False
        key, written = _key(node), _written(node)
        if _writes(node.target) and (written is None or not _is_unshared(written, node)):
            return False
        if key not in parts:
            try:
                with shapes_only(graph.graph):
                    made = _trace(node, table)
                stand = _stand_for(node, made, table)
            except Exception:  # what cannot be traced by itself is traced in its program
                return False
            if not stand:
                return False
            parts[key] = made
        if written is not None:  # who reads the tensor from here on reads what is written
            written.replace_all_uses_with(node, delete_user_cb=node.__lt__)
        _inline(graph.graph, node, parts[key])
    _read_sizes_of_inputs(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return True


def _is_plain(node: fx.Node, table: Table) -> bool:
    """Whether a node stays as it is."""
    if node.op == "output" or node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        made_of = getattr(node.target, "__module__", ""), getattr(node.target, "__name__", "")
        return made_of[0] == "_operator" or ".".join(made_of).startswith("torch.sym_")
    if node.target in _WHOLE or node.target is _aten.sym_size.int:
        return True
    if _writes(node.target) or node.target in _GIVEN:
        return False
    if node.target in table:
        return False
    return not node.target._can_decompose() or _is_preservable_cia_op(node.target)


def _writes(target: torch._ops.OpOverload) -> bool:
    return target._schema.is_mutable and target not in _GIVEN


def _is_core(node: fx.Node) -> bool:
    """False for what the dispatcher chooses for one device, as a whole LSTM for a CPU."""
    target = node.target
    return not isinstance(target, torch._ops.OpOverload) or torch.Tag.core in target.tags


def _stand_for(node: fx.Node, parts: fx.Graph, table: Table) -> bool:
    """Whether parts are those that the whole program's trace gives for a node."""
    calls = [part for part in parts.nodes if part.op not in ("placeholder", "output")]
    if not all(_is_plain(part, table) and _is_core(part) for part in calls):
        return False
    if node.target not in _PRODUCTS and any(part.target in _APART for part in calls):
        return False
    written = _written(node)
    if written is None:
        return True
    made = parts.output_node().args[0]
    return isinstance(made, fx.Node) and _kind(made) == _kind(written)


def _kind(node: fx.Node) -> tuple[torch.dtype, torch.Size]:
    return node.meta["val"].dtype, node.meta["val"].shape


def _operator(node: fx.Node) -> torch._ops.OpOverload:
    assert isinstance(node.target, torch._ops.OpOverload), "every other target is plain"
    return node.target


def _function_of(target: torch._ops.OpOverload) -> Any:
    """The operator that returns what an operator such as ``add_`` writes; None where none does."""
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    packet = getattr(_aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, overload, None)


def _written(node: fx.Node) -> fx.Node | None:
    """The tensor into which a node writes what it returns, None where it does anything else."""
    target = _operator(node)
    if not _writes(target) or _function_of(target) is None:
        return None
    into = [given for given in target._schema.arguments if given.is_write]
    first = target._schema.arguments[0]
    written = node.args[0] if into == [first] and node.args else None
    return written if isinstance(written, fx.Node) else None


def _is_unshared(tensor: fx.Node, writer: fx.Node) -> bool:
    """Whether no other tensor that is there when it is written shares its memory."""
    before = [user for user in tensor.users if user < writer]
    return _is_new(tensor) and not any(map(_may_share, before))


def _is_new(node: fx.Node) -> bool:
    """Whether a node makes memory of its own."""
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and _is_new(source)
    return node.op == "call_function" and not _may_share(node)


def _may_share(node: fx.Node) -> bool:
    """Whether what a core operator returns may be memory of an argument."""
    if isinstance(node.target, torch._ops.OpOverload):
        returned = node.target._schema.returns
        return any(each.alias_info is not None for each in returned)
    return getattr(node.target, "__module__", "") not in ("_operator", "torch")


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
        target = _operator(node)
        return (_GIVEN.get(target) or _function_of(target) or target)(*args, **kwargs)

    # Each tensor as an object of its own: those of equal parts are one, and so would be the inputs.
    values = (each.meta["val"] for each in nodes)
    given = [each.detach() if isinstance(each, torch.Tensor) else each for each in values]
    return make_fx(call, decomposition_table=table)(*given).graph


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
