"""Local functions of a model: how large they become when written out, and writing them out."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import inliner

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.limits import NODES

_Key = tuple[str, str]


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every call of a local function replaced by its body.

    Raises:
        ImportModelError: functions call each other in a circle, come out at too many nodes, or
            need other versions of the operators than the model.
    """
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[_Key, int] = {}

    def total(nodes: Iterable[onnx.NodeProto], callers: frozenset[_Key]) -> int:
        count = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in callers:
                raise ImportModelError(f"the local function {key[1]!r} calls itself")
            if key in bodies and key not in sizes:
                if len(callers) > 50:
                    raise ImportModelError("local functions call each other more than 50 deep")
                sizes[key] = total(bodies[key].node, callers | {key})
            count += sizes.get(key, 1)
        return count

    nodes = total(model.graph.node, frozenset())
    if nodes > NODES:
        raise ImportModelError(
            f"the model has {nodes} nodes when its local functions are written out, but at most "
            f"{NODES} are taken"
        )
    versions = {each.domain: each.version for each in model.opset_import}
    for function in model.functions:
        for each in function.opset_import:
            if versions.get(each.domain, each.version) != each.version:
                raise ImportModelError(
                    f"the local function {function.name!r} uses version {each.version} of domain "
                    f"{each.domain!r}, but the model version {versions[each.domain]}: export it "
                    "with one version"
                )
            if each.domain not in versions:
                model.opset_import.append(each)
                versions[each.domain] = each.version
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the C++ inliner raises its own types
        raise ImportModelError(
            f"the local functions cannot be written out ({str(error).splitlines()[0][:200]})"
        ) from error
