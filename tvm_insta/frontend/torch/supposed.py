"""What an exported program supposes of the size of the batch, tried for every size."""

from __future__ import annotations

import torch

GUARDED = "Constraints violated"
"""What torch.export says where it does not find that a supposition holds for every batch."""


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


def _holds(expression: object, batch: int) -> bool:
    """A truth, or a condition of one symbol at most."""
    if isinstance(expression, bool):
        return expression
    symbols: set[object] = getattr(expression, "free_symbols", set())
    if len(symbols) > 1:
        return False
    substituted = expression.subs(dict.fromkeys(symbols, batch))  # type: ignore[attr-defined]
    return bool(substituted == True)  # noqa: E712 (a sympy truth)
