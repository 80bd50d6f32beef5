"""The names of layers: the path of the module that computes one, or owns its weights."""

from __future__ import annotations

import re
from collections import Counter

from torch import fx

from tvm_insta.frontend.torch.graph import PARAMETERS
from tvm_insta.frontend.torch.origin import module_path

_MADE_IN_FORWARD = re.compile(r"(?:.*\.)?(?:_tensor_constant|lifted_tensor_|_lifted)\w*$")


def owner(weight: fx.Node) -> str:
    """The module whose parameters a constant weight was made of; "" where there is not just one.

    A parameter of the network itself stands for a module.
    """
    made_of = [name for name in weight.meta.get(PARAMETERS, ()) if not _MADE_IN_FORWARD.match(name)]
    # torch.nn.utils.parametrize keeps what it is of at conv.parametrizations.weight.original.
    modules = {
        name.partition(".parametrizations.")[0]
        if ".parametrizations." in name
        else name.rpartition(".")[0]
        for name in made_of
    }
    if modules == {""}:
        return made_of[0] if len(made_of) == 1 else ""
    return modules.pop() if len(modules) == 1 else ""


class Names:
    """Unique names for the layers of one graph."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def of(self, node: fx.Node, weight: fx.Node) -> str:
        """The path of the module that computes a layer, a repeated one with a number.

        Code of an outer module may compute with the weights of an inner one,
        ``F.conv2d(x, self.conv.weight)``: the inner one it is then. Without any module it is the
        node's name.
        """
        path, own = module_path(node), owner(weight)
        if own and (not path or own.startswith(f"{path}.")):
            path = own
        path = path or str(node.name)
        self._seen[path] += 1
        return path if self._seen[path] == 1 else f"{path}#{self._seen[path]}"
