"""Artefact against PyTorch: bits, activations, logits."""

from __future__ import annotations

from tvm_insta.validate.check import validate
from tvm_insta.validate.findings import Findings, SiteFindings

__all__ = ["Findings", "SiteFindings", "validate"]
