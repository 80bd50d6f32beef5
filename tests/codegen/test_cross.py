"""Cross-compiled artefacts: the plain-C form runs under QEMU, the vm form is linked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support import artefact_nets as nets
from tvm_insta import runtime
from tvm_insta.codegen import c_form, vm_form
from tvm_insta.errors import ArtefactError
from tvm_insta.target import parse

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
BOARDS = {
    "aarch64": (
        "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a53",
        "aarch64-linux-gnu-gcc",
        ["qemu-aarch64", "-cpu", "cortex-a53"],
    ),
    "armv7": (
        "llvm -mtriple=armv7l-linux-gnueabihf -mcpu=cortex-a7",
        "arm-linux-gnueabihf-gcc",
        ["qemu-arm", "-cpu", "cortex-a7"],
    ),
}


def rational_net(batch):
    """conv, bias, relu, residual in numbers for which float32 is exact: no rounding anywhere."""
    from tvm import relax

    rng = np.random.default_rng(nets.SEED)
    weight = rng.integers(-4, 5, (16, 3, 3, 16)).astype("float32")
    dense = rng.integers(-4, 5, (16, 10)).astype("float32")

    def body(builder, x):
        emit, ops = builder.emit, relax.op
        y = emit(
            ops.nn.conv2d(
                x, relax.const(weight), padding=(1, 1), data_layout="NHWC", kernel_layout="OHWI"
            )
        )
        y = emit(ops.add(emit(ops.nn.relu(y)), x))
        return emit(ops.matmul(emit(ops.sum(y, [1, 2])), relax.const(dense)))

    return nets.network(batch, body)


@pytest.mark.qemu
@pytest.mark.parametrize("board", BOARDS)
def test_plain_c_under_qemu_gives_the_bits_of_this_machine(tmp_path, board):
    text, compiler, qemu = BOARDS[board]
    nets.needs_tools(compiler, qemu[0])
    c_form(rational_net(1), parse(text), tmp_path / "board")
    program = tmp_path / "plain_c"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    archive = tmp_path / "board" / "model.a"
    source = EXAMPLES / "plain_c.c"
    command = [compiler, *flags, "-I", tmp_path / "board", source, archive, "-lm", "-pthread"]
    subprocess.run([*command, "-o", program], check=True)
    rng = np.random.default_rng(nets.SEED)
    x = rng.integers(-8, 9, (3, 8, 8, 16)).astype("float32")
    x.tofile(tmp_path / "batch.f32")
    done = subprocess.run(
        [*qemu, program, tmp_path / "batch.f32"], check=True, capture_output=True, text=True
    )
    rows = [line.split(" logits ")[1].split() for line in done.stdout.splitlines()]
    native = runtime.load(nets.write_artefact(tmp_path / "here", "c", make=rational_net))
    assert np.array(rows, np.float32).tobytes() == native(x).tobytes()


def test_vm_form_for_aarch64(tmp_path):
    nets.needs_tools("aarch64-linux-gnu-gcc")
    target = parse(BOARDS["aarch64"][0])
    form = vm_form(nets.conv_net(None), target, tmp_path / "bare")
    data = (tmp_path / "bare" / form.files[0]).read_bytes()
    assert data[:4] == b"\x7fELF" and int.from_bytes(data[18:20], "little") == 183  # EM_AARCH64
    folder = nets.write_artefact(tmp_path / "net", "vm", target)
    with pytest.raises(ArtefactError, match="for aarch64, this machine is"):
        runtime.load(folder)
