"""What an exported program supposes of the size of the batch, tried for every size."""

from __future__ import annotations

from typing import Any

import torch

from tvm_insta.frontend.torch.batch_trace import of_batch
from tvm_insta.frontend.torch.export_errors import GUARDED


def check_supposed(program: torch.export.ExportedProgram, max_batch: int) -> None:
    """See that every assertion of sizes in a program holds for batches of 1 to the largest.

    Raises:
        ValueError: one does not, or is of something else; the text is torch.export's, by which
            the user is told that forward fixes the batch.
    """
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten._assert_scalar.default:
            continue
        value = getattr(node.args[0], "meta", {}).get("val", node.args[0])
        expression = value.node.expr if isinstance(value, torch.SymBool) else value
        for batch in range(1, max_batch + 1):
            if not _holds(expression, batch):
                raise ValueError(f"{GUARDED}: {expression} for a batch of {batch}")


def _holds(expression: Any, batch: int) -> bool:
    """A truth, or a condition of one symbol at most."""
    if isinstance(expression, bool):
        return expression
    if len(expression.free_symbols) > 1:
        return False
    return bool(of_batch(expression, batch) == True)  # noqa: E712 (a sympy truth)
