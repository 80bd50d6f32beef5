"""Targets: what a user may name, completed and checked against what LLVM and the linkers know."""

from __future__ import annotations

from tvm_insta.target.parse import InstaTarget, parse

__all__ = ["InstaTarget", "parse"]
