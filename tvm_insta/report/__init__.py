"""What people read: summaries of a compilation and of a validation."""

from __future__ import annotations

from tvm_insta.report.findings import findings_lines
from tvm_insta.report.summary import compile_summary

__all__ = ["compile_summary", "findings_lines"]
