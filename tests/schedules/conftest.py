from __future__ import annotations

import os
import zlib

import numpy as np
import pytest

os.environ.setdefault("TVM_NUM_THREADS", "1")


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers with a seed of the test's own; pytest shows the printed seed on failure."""
    seed = int(os.environ.get("TVM_INSTA_TEST_SEED", zlib.crc32(request.node.nodeid.encode())))
    print(f"TVM_INSTA_TEST_SEED={seed}")
    return np.random.default_rng(seed)
