"""The plain-C form under ASan, UBSan and TSan: see sanitized.c for what is done with it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import artefact_nets as nets
from tests.support import thread_nets
from tvm_insta.codegen import c_form
from tvm_insta.target import parse
from tvm_insta.target.toolchain import Linker

KERNELS = 5
PROGRAM = Path(__file__).with_name("sanitized.c")
GCC = ("gcc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror")
SANITIZERS = {
    "address": ("-fsanitize=address",),
    "undefined": ("-fsanitize=undefined", "-fno-sanitize-recover=undefined"),
    # It does not know fences; the one in threads.c orders no access to data.
    "thread": ("-fsanitize=thread", "-Wno-tsan"),
}


@dataclass(frozen=True)
class Keeping(Linker):
    """Keeps the C texts that it is given to compile."""

    texts: dict[str, str] = field(default_factory=dict)

    def compile_c(self, source: Path, out: Path, *flags: str) -> None:
        for path in (*source.parent.glob("*.c"), *source.parent.glob("*.h")):
            self.texts[path.name] = path.read_text()
        super().compile_c(source, out, *flags)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, str]:
    """Driver, threads and headers of a network of five parallel loops, all but one in place."""
    keeping = Keeping(("gcc",), ("ar",), "gcc")
    network = thread_nets.many_loops(1001, KERNELS)(1)
    c_form(network, parse(nets.NATIVE), tmp_path_factory.mktemp("texts"), linker=keeping)
    return keeping.texts


@pytest.fixture(params=SANITIZERS)
def sanitizer(request, tmp_path_factory) -> str:
    nets.needs_tools("gcc")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    command = [*GCC, *SANITIZERS[request.param], folder / "probe.c", "-o", folder / "probe"]
    try:
        subprocess.run(command, check=True, capture_output=True)
        subprocess.run([folder / "probe"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"needs a gcc whose sanitizer of {request.param} works here")
    return request.param


def use(texts: dict[str, str], sanitizer: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile with the sanitizer, and run."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "weights").write_bytes(b"")
    defined = [f"-DKERNELS={KERNELS}", f'-DMODEL_WEIGHTS_FILE="{folder / "weights"}"']
    sources = [folder / "model.c", folder / "model_threads.c", PROGRAM]
    command = [*GCC, *SANITIZERS[sanitizer], *defined, f"-I{folder}", *sources]
    subprocess.run([*command, "-pthread", "-o", folder / "program"], check=True)
    return subprocess.run(
        [folder / "program"], check=False, capture_output=True, text=True, timeout=120
    )


def test_no_report(texts, sanitizer, tmp_path):
    done = use(texts, sanitizer, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


FAULTS = {
    "address": ("model.c", "memcpy(user, out, ", "memcpy(user, out, 4u + ", "overflow"),
    "undefined": ("model_threads.c", "pause(); }", "pause(); crowded += 1 << 30; }", "overflow"),
    "thread": ("model_threads.c", "memory_order_release", "memory_order_relaxed", "data race"),
}


def test_a_planted_fault_is_reported(texts, sanitizer, tmp_path):
    """A copy that is too long; a sum that wraps round; a loop handed over without its memory."""
    file, right, wrong, report = FAULTS[sanitizer]
    assert right in texts[file]
    planted = {**texts, file: texts[file].replace(right, wrong)}
    done = use(planted, sanitizer, tmp_path)
    assert done.returncode != 0 and report in done.stderr, done.stderr
