"""llvm-mca: cycles of a loop in LLVM's model of a processor.

No load misses the caches there, and every branch is predicted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tvm_insta.errors import ToolchainError
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.assembly import Loop

_VERSIONS = range(30, 12, -1)
_ITERATIONS = 200
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)$", re.MULTILINE)


def find() -> str | None:
    """The path of llvm-mca, of the newest version on the PATH, or None."""
    names = [f"llvm-mca-{version}" for version in _VERSIONS]
    return next(filter(None, map(shutil.which, [*names, "llvm-mca"])), None)


def version(path: str) -> str:
    """The version of an llvm-mca, such as "19.1.7", or "unknown"."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"version (\S+)", said)
    return match[1] if match else "unknown"


def cycles(path: str, target: InstaTarget, loop: Loop) -> float:
    """Modelled cycles of one iteration of `loop`.

    Args:
        path: of llvm-mca.
        target: names its CPU; the loop is in its assembly language.
        loop: see `assembly.hot_loop`.

    Raises:
        ToolchainError: llvm-mca does not know the CPU or an instruction.
    """
    command = [path, f"-mtriple={target.triple}", f"-mcpu={target.mcpu}"]
    if target.mattr:
        command.append(f"-mattr={','.join(target.mattr)}")
    done = subprocess.run(
        [*command, f"-iterations={_ITERATIONS}", "-all-views=false", "-summary-view"],
        input="\n".join(loop.lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    total = _CYCLES.search(done.stdout)
    if total is None or "is not a recognized processor" in done.stderr:
        said = (done.stderr.strip() or "it printed nothing").splitlines()[0]
        raise ToolchainError(
            f"{Path(path).name} cannot model this for -mcpu={target.mcpu} ({said}): name a CPU "
            "that it knows, or take a newer one"
        )
    return int(total[1]) / _ITERATIONS
