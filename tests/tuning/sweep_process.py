"""A sweep in a process of its own, for a test to kill: LOGS TRIALS [--resume]."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.tuning import tiny
from tvm_insta.tuning.runner import LocalRunner


def main() -> None:
    """Tune the tiny tasks on this machine."""
    logs, trials, *rest = sys.argv[1:]
    runner = LocalRunner(tiny.NATIVE)
    try:
        tiny.sweep(Path(logs), runner, trials=int(trials), seed=5, resume="--resume" in rest)
    finally:
        runner.close()


if __name__ == "__main__":
    main()
