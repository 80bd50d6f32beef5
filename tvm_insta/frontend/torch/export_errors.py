"""What torch.export could not do, in one sentence with the user's line."""

from __future__ import annotations

import traceback

from torch import nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.operators.refusal import line_of
from tvm_insta.frontend.torch.origin import is_foreign

WRITTEN = "is mutated in the forward method"
"""What torch.export says of a tensor that forward writes into and that is no buffer."""

GUARDED = "Constraints violated"
"""What torch.export says where it does not find that a supposition holds for every batch."""

_FIXED = (
    "specialized it to be a constant",
    GUARDED,
    "Specializations unexpectedly required",
)
"""What torch.export says where the batch cannot be any number."""


def export_error(module: nn.Module, error: BaseException) -> ImportModelError:
    """What torch.export could not do, in one sentence with the user's line.

    Args:
        module: that was exported.
        error: what torch.export raised.
    """
    if isinstance(error, ImportModelError):
        return error
    name = type(module).__name__
    text = str(error).strip()
    line = _line_in(error) or line_of(text)
    place = f" ({line})" if line else ""
    said = (text.splitlines() or [type(error).__name__])[0][:200].rstrip(" .:")
    if any(each in text for each in _FIXED):
        return ImportModelError(
            f"{name} fixes the size of the batch in forward{place}: write x.shape[0] or -1 where a "
            "number stands for the batch"
        )
    if "data-dependent" in text or "unbacked" in text.lower() or "GuardOnData" in text:
        return ImportModelError(
            f"{name} decides on a value computed from the input{place}: choose with torch.where, "
            "or decide on parameters and shapes only"
        )
    if WRITTEN in text:
        return ImportModelError(
            f"{name} writes into a tensor that is neither a buffer nor a tensor attribute of a "
            f"module{place}: keep it with register_buffer, or compute a new tensor"
        )
    return ImportModelError(
        f"torch.export cannot export {name}{place} ({type(error).__name__}: {said}): write that "
        "line with torch operators on tensors"
    )


def _line_in(error: BaseException) -> str:
    """The innermost line of the user's in an exception's own stack."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [
            frame
            for frame in traceback.extract_tb(seen.__traceback__)
            if not is_foreign(frame.filename)
        ]
        if frames:
            return f"{frames[-1].filename}, line {frames[-1].lineno}"
        seen = seen.__cause__ or seen.__context__
    return ""
