"""An ONNX or QONNX file -> a checked graph.

Files come from anywhere. Sizes, names, order, domains and dimensions are checked here, before
anything is computed; `onnx.checker` checks the rest of the format.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import limits
from tvm_insta.frontend.onnx.external import load_external
from tvm_insta.frontend.onnx.functions import inline
from tvm_insta.frontend.onnx.graph import STANDARD, Graph, Input
from tvm_insta.frontend.onnx.operators import names
from tvm_insta.frontend.onnx.scope import Scope, note_widened
from tvm_insta.frontend.onnx.tensors import check_tensor

QONNX = "qonnx.custom_op.general"
QONNX_NAMES = frozenset(names(QONNX))
_PROPERTY = 1 << 20  # characters
_INT = onnx.AttributeProto.INT
OLDEST_OPSET = 7
"""Before it, broadcasting had to be asked for."""


def load(source: str | Path | bytes | onnx.ModelProto) -> Graph:
    """Read and check a model.

    Args:
        source: path of an .onnx file, its bytes, or a model that is already parsed. Tensors in
            other files are read only where a path is given.

    Raises:
        ImportModelError: the file is damaged, absurd, or uses something that is not taken; the
            message says what.
    """
    folder = None
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    else:
        if isinstance(source, bytes):
            data = source
        else:
            folder = Path(source).resolve().parent
            data = _read(Path(source))
        model = _parse(data)
    if not model.HasField("graph") or not model.graph.output:
        raise ImportModelError("the file holds no graph with outputs: see that it is an ONNX model")
    _check_sizes(model)
    _add_missing_imports(model)
    _drop_bit_widths(model)
    model = inline(model)
    _check_sizes(model)
    for tensor in model.graph.initializer:
        check_tensor(tensor, f"initialiser {tensor.name!r}")
    files = load_external(model, folder)
    _check_format(model)
    return dataclasses.replace(_graph(model), files=files)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ImportModelError(f"{path} is no file: give the path of an .onnx model")
    size = path.stat().st_size
    if size > limits.FILE_BYTES:
        raise ImportModelError(
            f"{path} has {size} bytes, but at most {limits.FILE_BYTES} are taken: export it with "
            "its tensors in a file of their own"
        )
    return path.read_bytes()


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        return onnx.ModelProto.FromString(data)
    except (DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = str(error)[:120] or "it cannot be parsed"
        raise ImportModelError(f"the file is no ONNX model, or is damaged ({reason})") from error


def _check_sizes(model: onnx.ModelProto) -> None:
    graph, inner = model.graph, list(_inner(model.graph))
    nodes = len(graph.node) + sum(len(function.node) for function in model.functions)
    nodes += sum(len(each.node) for each in inner)
    initialised = {tensor.name for tensor in graph.initializer}
    for what, found, most in (
        ("nodes", nodes, limits.NODES),
        ("initialisers", sum(len(g.initializer) for g in (graph, *inner)), limits.NODES),
        ("inputs", sum(each.name not in initialised for each in graph.input), limits.INPUTS),
        ("outputs", len(graph.output), limits.INPUTS),
    ):
        if found > most:
            raise ImportModelError(f"the model has {found} {what}, but at most {most} are taken")
    if any(each.sparse_initializer for each in (graph, *inner)):
        raise ImportModelError("the model has sparse initialisers: export it with dense ones")
    for node in (node for each in (graph, *inner) for node in each.node):
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            if not isinstance(name, str):
                raise ImportModelError(f"the name {name!r} is no text: the file is damaged")
            if len(name) > limits.NAME:
                raise ImportModelError(
                    f"the name {name[:40]!r}... has {len(name)} characters, but at most "
                    f"{limits.NAME} are taken"
                )


def _inner(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside the nodes of a graph, at any depth."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            for attribute in node.attribute:
                found = [attribute.g] if attribute.HasField("g") else []
                for each in (*found, *attribute.graphs):
                    waiting.append(each)
                    yield each


def _add_missing_imports(model: onnx.ModelProto) -> None:
    """QONNX files often import no version of the domains that they use: version 1 is meant."""
    imported = {each.domain for each in model.opset_import}
    if not imported & STANDARD:
        if model.graph.node and all(node.domain not in STANDARD for node in model.graph.node):
            model.opset_import.append(onnx.helper.make_opsetid("", 17))
        else:
            raise ImportModelError("the model does not say which version of the operators it uses")
    graphs = [model.graph, *_inner(model.graph)]
    nodes = [node for each in (*graphs, *model.functions) for node in each.node]
    for node in nodes:  # the oldest files have them in ONNX's own domain
        if node.domain in STANDARD and node.op_type in QONNX_NAMES:
            node.domain = QONNX
    # Of a domain that is not known the operator will be named, which says more than the import.
    for domain in sorted({node.domain for node in nodes}):
        if domain not in imported and not (domain in STANDARD and imported & STANDARD):
            model.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def _drop_bit_widths(model: onnx.ModelProto) -> None:
    """QuantLib and DORY note bit widths at operators that have no such attributes: "weight_bits".

    They say what the values of the file say as well, and no standard operator has one of that name.
    """
    for graph in (model.graph, *_inner(model.graph)):
        for node in (node for node in graph.node if node.domain in STANDARD):
            kept = [a for a in node.attribute if not (a.name.endswith("_bits") and a.type == _INT)]
            if len(kept) < len(node.attribute):
                del node.attribute[:]
                node.attribute.extend(kept)


def _check_format(model: onnx.ModelProto) -> None:
    """`onnx.checker` on a copy in which weights are no inputs, as old exporters list them."""
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in initialised]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    # Shapes of results are found again; some exporters leave out what the checker wants of them.
    for graph in (model.graph, *_inner(model.graph)):
        del graph.value_info[:]
        for output in graph.output:
            kind = output.type
            if kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape"):
                kind.tensor_type.shape.SetInParent()
    for each in inputs:
        if each.type.HasField("tensor_type") and not each.type.tensor_type.HasField("shape"):
            raise ImportModelError(
                f"input {each.name!r} has no shape: export the model with a shape of its inputs"
            )
    try:
        # The list of initialisers is kept; without the old custom of listing them as inputs too,
        # files of IR version 3 are checked as those of version 4.
        version = model.ir_version
        model.ir_version = max(version, 4) if version == 3 else version
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError, ValueError) as error:
        raise ImportModelError(f"the file breaks the ONNX format: {_short(error)}") from error
    except Exception as error:  # protobuf's C++ errors have no common type
        raise ImportModelError(f"the file cannot be checked ({_short(error)})") from error


def _graph(model: onnx.ModelProto) -> Graph:
    graph = model.graph
    opsets = {each.domain: int(each.version) for each in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 1))
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ImportModelError(
            f"the model uses version {opset} of the operators, but onnx {onnx.__version__} knows "
            f"them up to {newest}: pip install -U onnx, or export it for an older version"
        )
    if opset < OLDEST_OPSET:
        raise ImportModelError(
            f"the model uses version {opset} of the operators, but {OLDEST_OPSET} and newer are "
            "taken: convert it with onnx.version_converter, or export it again"
        )
    widened: set[str] = set()
    inputs = tuple(_input(each, widened) for each in graph.input)
    names = {each.name for each in inputs}
    if len(names) < len(inputs):
        raise ImportModelError("two inputs of the model have the same name: the file is damaged")
    scope = Scope(opsets, widened, names)
    scope.read(graph)
    outputs = tuple(output.name for output in graph.output)
    notes = tuple(f"{name} values of the file are computed in float32" for name in sorted(widened))
    properties = {
        each.key: each.value
        for each in model.metadata_props[: limits.NODES]
        if len(each.value) <= _PROPERTY
    }
    return Graph(tuple(scope.nodes), inputs, outputs, scope.initialisers, opsets, notes, properties)


def _input(info: onnx.ValueInfoProto, widened: set[str]) -> Input:
    what = f"input {info.name!r}"
    if not info.type.HasField("tensor_type"):
        raise ImportModelError(f"{what} is no tensor, but only tensors are taken")
    kind = info.type.tensor_type
    shape: list[int | None] = []
    for dim in kind.shape.dim:
        size = int(dim.dim_value) if dim.HasField("dim_value") else 0
        shape.append(size or None)  # 0 and no value both stand for "open"
    limits.check_shape([1 if dim is None else dim for dim in shape], what)
    note_widened(int(kind.elem_type), widened)
    return Input(info.name, tuple(shape), int(kind.elem_type))


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
