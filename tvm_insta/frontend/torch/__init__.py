"""From PyTorch to Relax."""

from __future__ import annotations
