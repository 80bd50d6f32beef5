"""Tuning: measure the parameters that a schedule accepts, and keep the best for the compiler.

A task is a distinct kernel of a network. A search proposes parameters for it, a runner measures
them, the log keeps every trial. The compiler looks up what the log found best.
"""

from __future__ import annotations
