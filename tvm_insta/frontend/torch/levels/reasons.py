"""Why the input of a layer is real-valued, in words."""

from __future__ import annotations

from torch import fx

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.graph import base_name, is_tensor
from tvm_insta.frontend.torch.levels.values import Levels
from tvm_insta.frontend.torch.names import source_line


def why_real(node: fx.Node, levels: Levels) -> WhyFloat:
    """Say where the values of a layer's input became many."""
    if node.op == "placeholder":
        return WhyFloat(Reason.NETWORK_INPUT, "its input is the network's input")
    name = base_name(node).removeprefix("aten.") or "an operator with several results"
    line = source_line(node)
    where = f" in {line}" if line else ""
    binarised = [
        source
        for source in node.all_input_nodes
        if is_tensor(source) and (levels.values(source) or ()) and source.op != "get_attr"
    ]
    if binarised:
        return WhyFloat(
            Reason.INPUT_CHANGED, f"its input was binarised and then changed by {name}{where}"
        )
    return WhyFloat(Reason.REAL_INPUT, f"its input is real-valued (the result of {name}{where})")
