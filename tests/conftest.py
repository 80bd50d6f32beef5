"""What all tests share."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers side by side have all the cores: PyTorch's own threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
