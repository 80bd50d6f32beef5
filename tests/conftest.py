"""What all tests share."""

from __future__ import annotations

import gc
import os

# The IR is verified after every phase of every compilation, those in processes of their own too.
os.environ["TVM_INSTA_VERIFY_IR"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers side by side have all the cores: PyTorch's own threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What PyTorch and TVM are made of stays: collections that look at it are a fifth of the time
    of a compilation."""
    gc.collect()
    gc.freeze()
