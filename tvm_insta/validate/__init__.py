"""Artefact against PyTorch: bits, activations, logits."""

from __future__ import annotations

from tvm_insta.validate.check import Findings, SiteFindings, validate

__all__ = ["Findings", "SiteFindings", "validate"]
