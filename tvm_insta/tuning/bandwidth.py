"""The rate at which one core moves bytes, for rooflines."""

from __future__ import annotations

import time

import numpy as np

_SECONDS = 0.1
"""How long copies are repeated; the best one counts."""
_LEAST_ROUNDS = 5


def measure_bandwidth(size: int) -> float:
    """1e9 bytes per second that one thread reads and writes when it copies.

    Args:
        size: bytes of the memory copied from and to together: it decides which cache holds them.
    """
    # Both are written, so that no copy waits for the system to find pages.
    source, target = np.ones(size // 2, np.uint8), np.ones(size // 2, np.uint8)
    # One copy of a small array is shorter than a reading of the clock can tell.
    calls = max(1, (1 << 24) // size)
    best, end, rounds = float("inf"), time.perf_counter() + _SECONDS, 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() < end:
        begun = time.perf_counter()
        for _ in range(calls):
            np.copyto(target, source)
        best = min(best, (time.perf_counter() - begun) / calls)
        rounds += 1
    return 1e-9 * size / best
