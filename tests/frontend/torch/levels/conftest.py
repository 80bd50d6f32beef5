"""Hypothesis measures time by the clock: a busy machine must not make a test fail."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("no_deadline")
