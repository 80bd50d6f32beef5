"""The nodes of a graph, read in order: every name is defined once, before it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import AttributeProto

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import limits
from tvm_insta.frontend.onnx.graph import STANDARD, Graph, Initialiser, Input, Node
from tvm_insta.frontend.onnx.operators import find
from tvm_insta.frontend.onnx.tensors import FLOATS, element_name, to_initialiser


@dataclass
class Scope:
    """The names that a graph may read, while it is read.

    Attributes:
        opsets: version per domain.
        widened: types of floats that were met, and are computed in float32.
        names: known so far.
        outer: known in the graphs around this one.
        nodes: of the graph.
        initialisers: of the graph.
        captured: names of ``outer`` that it reads, in order.
    """

    opsets: Mapping[str, int]
    widened: set[str]
    names: set[str]
    outer: frozenset[str] = frozenset()
    nodes: list[Node] = field(default_factory=list)
    initialisers: dict[str, Initialiser] = field(default_factory=dict)
    captured: dict[str, None] = field(default_factory=dict)

    def read(self, graph: onnx.GraphProto) -> None:
        """Take over initialisers, nodes and outputs.

        Raises:
            ImportModelError: a name is defined twice or not at all, or as `load`.
        """
        for tensor in graph.initializer:
            what = f"initialiser {tensor.name!r}"
            if tensor.name in self.initialisers or tensor.name in self.outer:
                raise ImportModelError(f"{what} is there twice: the file is damaged")
            self.initialisers[tensor.name] = to_initialiser(tensor, what)
            note_widened(int(tensor.data_type), self.widened)
        self.names |= set(self.initialisers)
        for index, proto in enumerate(graph.node):
            node = self._node(proto, index)
            for name in node.inputs:
                self._use(
                    name,
                    f"{node} reads {name!r}, which nothing before it defines: the file is damaged "
                    "or has a cycle",
                )
            for name in filter(None, node.outputs):
                if name in self.names or name in self.outer:
                    raise ImportModelError(f"{node} defines {name!r}, which is there already")
                self.names.add(name)
            self.nodes.append(node)
        for output in graph.output:
            self._use(output.name, f"nothing defines the output {output.name!r}")

    def _use(self, name: str, otherwise: str) -> None:
        if not name or name in self.names:
            return
        if name not in self.outer:
            raise ImportModelError(otherwise)
        self.captured[name] = None

    def _node(self, proto: onnx.NodeProto, index: int) -> Node:
        node = _node(proto, index, self.opsets, self.widened)
        if (node.domain, node.op) != ("", "If"):
            return node
        graphs = {each.name: each.g for each in proto.attribute if each.HasField("g")}
        scopes = []
        for name in ("then_branch", "else_branch"):
            if name not in graphs or graphs[name].input:
                raise ImportModelError(f"{node} lacks its {name}, or gives it inputs")
            if len(graphs[name].output) != len(node.outputs):
                raise ImportModelError(f"{node}: its {name} has another number of outputs")
            around = frozenset(self.names | self.outer)
            scopes.append(Scope(self.opsets, self.widened, set(), around))
            scopes[-1].read(graphs[name])
        captured = tuple({name: None for scope in scopes for name in scope.captured})
        branches = tuple(
            Graph(
                tuple(scope.nodes),
                tuple(Input(name, None, 0) for name in captured),
                tuple(output.name for output in graphs[name].output),
                scope.initialisers,
                self.opsets,
            )
            for name, scope in zip(("then_branch", "else_branch"), scopes, strict=True)
        )
        return dataclasses.replace(node, inputs=(*node.inputs, *captured), branches=branches)


def note_widened(element: int, found: set[str]) -> None:
    """Add the name of a type of floats that is computed in float32, where it is another one."""
    if element in FLOATS and element != onnx.TensorProto.FLOAT:
        found.add(element_name(element).lower())


def _node(proto: onnx.NodeProto, index: int, opsets: Mapping[str, int], widened: set[str]) -> Node:
    first = next((name for name in proto.output if name), f"node_{index}")
    name = proto.name or first
    node = Node(
        op=proto.op_type,
        domain="" if proto.domain in STANDARD else proto.domain,
        name=name,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={},
    )
    operator = find(node.domain, node.op)
    if operator is None:
        where = f" of domain {node.domain!r}" if node.domain else ""
        raise ImportModelError(
            f"{node}: the operator {node.op}{where} is not known here: write it with standard "
            "operators, or leave the model's part that needs it outside"
        )
    kept = [each for each in proto.attribute if node.op != "If" or not each.HasField("g")]
    attributes = dict(_attributes(kept, str(node)))
    for value in attributes.values():
        if isinstance(value, Initialiser):
            note_widened(value.element, widened)
    return Node(node.op, node.domain, name, node.inputs, node.outputs, attributes)


_LISTS: Mapping[int, Callable[[AttributeProto], Sequence[Any]]] = {
    AttributeProto.INTS: lambda proto: proto.ints,
    AttributeProto.FLOATS: lambda proto: proto.floats,
    AttributeProto.STRINGS: lambda proto: [s.decode("utf-8", "replace") for s in proto.strings],
}


def _attributes(protos: Iterable[AttributeProto], what: str) -> Iterable[tuple[str, Any]]:
    seen = set()
    for proto in protos:
        if proto.name in seen:
            raise ImportModelError(f"{what} has the attribute {proto.name!r} twice")
        seen.add(proto.name)
        if proto.ref_attr_name:
            raise ImportModelError(
                f"{what} takes its attribute {proto.name!r} from a function, but is in none"
            )
        if proto.type == AttributeProto.TENSOR:
            yield proto.name, to_initialiser(proto.t, f"attribute {proto.name!r} of {what}")
        elif proto.type == AttributeProto.STRING:
            yield proto.name, proto.s.decode("utf-8", "replace")
        elif proto.type in (AttributeProto.INT, AttributeProto.FLOAT):
            yield proto.name, proto.i if proto.type == AttributeProto.INT else proto.f
        elif proto.type in _LISTS:
            values = _LISTS[proto.type](proto)
            if len(values) > limits.NODES:
                raise ImportModelError(
                    f"attribute {proto.name!r} of {what} has {len(values)} values, but at most "
                    f"{limits.NODES} are taken"
                )
            yield proto.name, tuple(values)
        else:
            raise ImportModelError(
                f"{what} has the attribute {proto.name!r} of a kind that is not taken (graphs, "
                "sparse tensors): unroll loops and conditions when exporting"
            )
