"""What ptxas makes of the kernels: no local memory, and the instructions that are meant."""

from __future__ import annotations

import shutil

import pytest

from tests.support import cuda_table
from tvm_insta.target import toolchain


@pytest.fixture(scope="module")
def rows():
    if toolchain.nvcc() is None or shutil.which("c++") is None:
        pytest.skip("nvcc or a C++ compiler is not installed: no kernel can be compiled")
    return cuda_table.rows()


@pytest.mark.slow
@pytest.mark.cuda
def test_registers_hold_everything(rows):
    assert {row.arch for row in rows} == {
        arch for group in cuda_table.SAME_SOURCE for arch in group
    }
    assert [row for row in rows if row.spill_bytes or row.stack_bytes] == []
    assert max(row.registers for row in rows if row.arch != "sm_75") <= 128
    assert max(row.shared_bytes for row in rows) <= 48 << 10


@pytest.mark.slow
@pytest.mark.cuda
def test_instructions(rows):
    if cuda_table.find_cuobjdump() is None:
        pytest.skip("cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")
    for row in rows:
        if row.family != "binary convolution":
            assert not row.opcodes["BMMA"] and not row.opcodes["IMMA"]
            continue
        number = int(row.arch.removeprefix("sm_"))
        assert bool(row.opcodes["BMMA"]) == (80 <= number < 100), row
        assert (row.opcodes["IMMA"] > 0) == (number >= 100), row
        assert row.opcodes["POPC"] > 0  # ones of pixels, or all


@pytest.mark.slow
@pytest.mark.cuda
def test_the_table_is_current(rows):
    """`python -m tests.support.cuda_table` writes it."""
    table, version = cuda_table.written(), cuda_table.nvcc_version()
    if f"nvcc {version};" not in table:
        pytest.skip(f"the table was made with another nvcc than {version}")
    if cuda_table.find_cuobjdump() is None:
        pytest.skip("cuobjdump is not installed (pip install nvidia-cuda-cuobjdump)")
    assert table == cuda_table.render(rows, version)
