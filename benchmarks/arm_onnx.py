"""ONNX Runtime's aarch64 wheel under QEMU, counted like ours.

It needs a root folder of an aarch64 system that has Python and its wheel. On Debian, `apt-get` with
`-o APT::Architecture=arm64`, state folders of its own and `-d` downloads python3-minimal and
libstdc++6 for arm64, `dpkg -x` unpacks them into ROOT, and

    pip download --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 onnxruntime numpy

gives the wheels (with flatbuffers, protobuf and packaging), which are zip files to unpack into
ROOT/usr/lib/python3/dist-packages. Under QEMU 7.2 onnxruntime 1.32 dies of SIGSEGV when it is
imported; 1.23.2 runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.arm_figures import Model
from benchmarks.arm_qemu import Core, count_program
from benchmarks.engines import Unavailable
from benchmarks.engines.run_onnxruntime import onnx_file
from tvm_insta.errors import ToolchainError

_SCRIPT = """\
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
for _ in range(int(sys.argv[2])):
    session.run(None, {"x": x})
"""


def measure(root: Path, cores: Sequence[Core], folder: Path) -> list[Model]:
    """Count float32 and int8 ResNet-18, the second image minus what starting takes.

    Args:
        root: root folder of an aarch64 system.
        cores: 64-bit cores.
        folder: for temporary files.

    Raises:
        ToolchainError: there is no Python in the root folder, or it fails.
    """
    pythons = sorted(p for p in (root / "usr/bin").glob("python3*") if "config" not in p.name)
    if not pythons:
        raise ToolchainError(f"{root}/usr/bin holds no python3: name an aarch64 root folder.")
    script = folder / "onnx_run.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    packages = (root / "usr/lib/python3/dist-packages").resolve()
    home = (root / "usr").resolve()
    options = ("-L", str(root), "-E", f"PYTHONHOME={home}", "-E", f"PYTHONPATH={packages}")
    found = []
    for mode in ("fp32", "int8"):
        try:
            model = onnx_file(mode, "resnet18", folder, "QInt8")
        except Unavailable as reason:
            raise ToolchainError(f"no ONNX file of ResNet-18 {mode}: {reason}.") from reason
        for core in cores:
            runs = [
                count_program(core, pythons[0], folder, options, str(script), str(model), str(n))
                for n in (1, 2)
            ]
            found.append(Model(core.name, f"ONNX Runtime ResNet-18 {mode}", runs[1] - runs[0]))
    return found
