"""The exported graph of a PyTorch module, executed by PyTorch node by node.

This is the reference: nothing is folded, replaced or recognised here. Whatever the compiler makes
of a node, its value is what PyTorch's own operator returns.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.origin import module_path

Values = dict[fx.Node, Any]
Change = Callable[[fx.Node, Any], Any]
"""Called with each node and its value; returns the value to go on with."""

_MOVES = frozenset(
    "alias detach clone lift_fresh_copy view _unsafe_view reshape permute transpose t squeeze "
    "unsqueeze expand slice select cat stack split split_with_sizes unbind chunk constant_pad_nd "
    "reflection_pad2d replication_pad2d _pad_circular max_pool2d max_pool2d_with_indices index "
    "index_select flip repeat roll pixel_shuffle pixel_unshuffle upsample_nearest2d _to_copy to "
    "copy full full_like ones_like zeros_like new_ones new_zeros scalar_tensor arange empty_like "
    "index_put amax amin _assert_tensor_metadata sym_size".split()
)
"""Operators that only move values, or make constants: their result has no rounding."""


_LAYERS = ("convolution", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm", "conv2d")


class Graph:
    """A graph of ATen operators.

    Attributes:
        nodes: in the order of execution.
        named: node by name.
        constant: nodes that depend on parameters alone.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.nodes: list[fx.Node] = list(module.graph.nodes)
        self.named = {node.name: node for node in self.nodes}
        self.inputs = [node for node in self.nodes if node.op == "placeholder"]
        self.constant: set[fx.Node] = set()
        for node in self.nodes:
            if node.op not in ("placeholder", "output"):
                if all(source in self.constant for source in node.all_input_nodes):
                    self.constant.add(node)
        self._kept: Values = {}
        self._classes: dict[fx.Node, int] = {}
        self._keeps = not any(_writes(node) for node in self.nodes)

    @property
    def output(self) -> fx.Node:
        """The node of the network's results."""
        return self.nodes[-1]

    def run(self, inputs: Sequence[torch.Tensor], change: Change | None = None) -> Values:
        """Execute every node; what depends on parameters alone, in the first run.

        Args:
            inputs: one tensor per input, batch first.
            change: see `Change`; also called for inputs and constants.

        Returns:
            The value of every node; that of `output` is a flat list of tensors.
        """
        given = dict(zip(self.inputs, inputs, strict=True))
        values: Values = {}
        with torch.no_grad():
            for node in self.nodes:
                if node in given:
                    value = given[node]
                elif node in self._kept:
                    value = self._kept[node]
                else:
                    value = self._execute(node, values.__getitem__)
                    if self._keeps and node in self.constant:
                        self._kept[node] = value
                values[node] = value if change is None else change(node, value)
        return values

    def evaluate(
        self,
        nodes: Iterable[fx.Node],
        known: Mapping[fx.Node, Any],
        replaced: Mapping[fx.Node, Any],
        change: Change | None = None,
        read: Callable[[Any], Any] | None = None,
        operands: Callable[[fx.Node, tuple[Any, ...]], tuple[Any, ...]] | None = None,
    ) -> Values:
        """Execute some nodes anew.

        Args:
            nodes: in the order of execution.
            known: values of all other nodes.
            replaced: values that stand in place of the known ones.
            change: see `Change`.
            read: applied to each known value that a node reads.
            operands: gives the arguments that a node gets in place of its own.
        """
        values: Values = dict(replaced)

        def value_of(node: fx.Node) -> Any:
            if node in values:
                return values[node]
            return known[node] if read is None else read(known[node])

        with torch.no_grad():
            for node in nodes:
                value = self._execute(node, value_of, operands)
                values[node] = value if change is None else change(node, value)
        return values

    def _execute(
        self,
        node: fx.Node,
        value_of: Callable[[fx.Node], Any],
        operands: Callable[[fx.Node, tuple[Any, ...]], tuple[Any, ...]] | None = None,
    ) -> Any:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.module)
        args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
        if operands is not None:
            args = operands(node, args)
        if node.op == "output":
            return _flat(args[0])
        if node.op == "call_module":
            return operator.attrgetter(str(node.target))(self.module)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def slice(self, target: fx.Node, cut: Iterable[fx.Node]) -> list[fx.Node]:
        """What has to be executed to get `target` from `cut`, constants and inputs excepted."""
        return self.slice_of([target], cut)

    def slice_of(self, targets: Iterable[fx.Node], cut: Iterable[fx.Node]) -> list[fx.Node]:
        """The same for several targets."""
        stop = {*cut, *self.inputs}
        waiting = list(targets)
        wanted = set(waiting)
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source not in wanted and source not in stop and source not in self.constant:
                    wanted.add(source)
                    waiting.append(source)
        return sorted(wanted)

    def between(self, roots: Sequence[fx.Node], target: fx.Node) -> list[fx.Node]:
        """What of the slice behind `roots` depends on one of them; empty where nothing does."""
        reached = set(roots)
        found = []
        for node in self.slice(target, roots):
            if node not in reached and any(source in reached for source in node.all_input_nodes):
                reached.add(node)
                found.append(node)
        return found

    def as_read_by(self, target: fx.Node, root: fx.Node) -> fx.Node:
        """The node that `target` depends on and that computes what `root` computes.

        A network may write the same call twice; a compiler that computes it once names one of them.

        Returns:
            `root` itself where `target` depends on it, or on no equal node.
        """
        above = self.slice(target, ())
        if root in above:
            return root
        wanted = self._class(root)
        return next((node for node in above if self._class(node) == wanted), root)

    def _class(self, node: fx.Node) -> int:
        """A number that nodes of the same operator and equal operands have in common."""
        if not self._classes:
            known: dict[str, int] = {}
            for each in self.nodes:
                operands = fx.map_arg((each.args, each.kwargs), self._number)
                pure = each.op == "call_function" and not _writes(each) and not _random(each)
                key = f"{each.target} {operands}" if pure else f"only {each.name}"
                self._classes[each] = known.setdefault(key, len(known))
        return self._classes[node]

    def _number(self, node: fx.Node) -> str:
        return f"%{self._classes[node]}"

    def exact(self, nodes: Iterable[fx.Node], roots: Sequence[fx.Node]) -> bool:
        """Whether nodes compute element by element from roots and constants, in a fixed order.

        Then the same root gives the same result, bit by bit, and no rounding excuses another.
        """
        nodes = list(nodes)
        known = {*nodes, *roots, *self.constant}
        for node in nodes:
            if node.target is operator.getitem or node in self.constant:
                continue
            tags = getattr(node.target, "tags", ())
            if torch.Tag.pointwise not in tags and base_name(node) not in _MOVES:
                return False
            for source in node.all_input_nodes:
                if source not in known and not isinstance(source.meta.get("val"), torch.SymInt):
                    return False
        return True


def _writes(node: fx.Node) -> bool:
    """Whether a node may write into its operands, so that no value can be kept."""
    if node.op != "call_function":
        return node.op in ("call_method", "call_module")
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def base_name(node: fx.Node) -> str:
    """Name of the operator without namespace and overload, "" for anything else."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).split("::")[-1]


def is_move(node: fx.Node) -> bool:
    """Whether a node only moves values: its result has no rounding of its own."""
    return node.target is operator.getitem or base_name(node) in _MOVES


def is_layer(node: fx.Node) -> bool:
    """Whether a node is a convolution or a product."""
    return base_name(node) in _LAYERS


def paths(node: fx.Node) -> list[str]:
    """The innermost module's path, with and without our wrapper of pixels, and the own name."""
    inner = module_path(node)
    return [path for path in (inner.removeprefix("network."), inner, str(node.name)) if path]


def place(node: fx.Node) -> str:
    """Module path and name of a node, for messages."""
    path = paths(node)[0]
    return path if path == node.name else f"{path} ({node.name})"


def layers_in(nodes: Iterable[fx.Node]) -> list[str]:
    """Places of the convolutions and products among nodes."""
    return [place(node) for node in nodes if is_layer(node)]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [item for each in value for item in _flat(each)]
    return [value]
