"""The rate at which one core moves bytes, for rooflines."""

from __future__ import annotations

import time

import numpy as np

_SECONDS = 0.1
"""How long copies are repeated; the best one counts."""


def measure_bandwidth(size: int) -> float:
    """1e9 bytes per second that one thread reads and writes when it copies.

    Args:
        size: bytes of the memory copied from and to together: it decides which cache holds them.
    """
    source, target = np.ones(size // 2, np.uint8), np.zeros(size // 2, np.uint8)
    # One copy of a small array is shorter than a reading of the clock can tell.
    calls = max(1, (1 << 24) // size)
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while True:
        begun = time.perf_counter()
        for _ in range(calls):
            np.copyto(target, source)
        now = time.perf_counter()
        best = min(best, (now - begun) / calls)
        if now >= end:
            return 1e-9 * size / best
