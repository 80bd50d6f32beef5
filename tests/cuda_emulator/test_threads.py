"""What threads do together, as nvcc writes it: barriers, warps, matrices, copies."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_emulator.harness import (
    assembly,
    in_every_order,
    launch,
    ptx_of,
    require_compiler,
    require_nvcc,
)
from tvm_insta import cuda_emulator
from tvm_insta.cuda_emulator import EmulatorError, Options, Order

SEED = 5
ROTATE = r"""
extern "C" __global__ void k(const int *in, int *out) {
  __shared__ int room[96];
  int i = threadIdx.x, base = blockIdx.x * 96;
  room[i] = in[base + i];
  __syncthreads();
  int next = room[(i + 1) % 96];
  __syncthreads();
  room[i] = next * 2;
  __syncthreads();
  out[base + i] = room[95 - i];
}
"""
WARP = r"""
extern "C" __global__ void k(const float *x, const float *t, unsigned *words, int *out) {
  int lane = threadIdx.x & 31, at = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned word = __ballot_sync(~0u, x[at] >= t[lane]);
  int sum = lane;
  for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
  if (lane == 0) words[at / 32] = word;
  int *row = out + at * 10;
  row[0] = sum;
  row[1] = __shfl_down_sync(~0u, lane, 3);
  row[2] = __shfl_up_sync(~0u, lane, 5, 8);
  row[3] = __shfl_sync(~0u, lane * 2, 7);
  row[4] = __shfl_down_sync(~0u, lane, 3, 8);
  row[5] = __any_sync(~0u, lane == 40);
  row[6] = __all_sync(~0u, lane < 32);
  row[7] = __reduce_add_sync(~0u, lane);
  row[8] = __reduce_max_sync(~0u, -lane);
  row[9] = lane < 8 ? (int)__ballot_sync(0xff, lane & 1) : (int)__ballot_sync(0xffffff00, lane & 1);
}
"""
MATRIX = r"""
#define SUM(op, ...) asm volatile("mma.sync.aligned." op \
    " {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};" \
    : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) \
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
// A: 16 rows of 8 words, B: 8 columns of 8 words, by ldmatrix from rows of 12 words.
extern "C" __global__ void k(const unsigned *ga, const unsigned *gb, int *d) {
  __shared__ __align__(16) unsigned sa[16 * 12], sb[8 * 12];
  int l = threadIdx.x;
  for (int i = l; i < 128; i += 32) sa[i / 8 * 12 + i % 8] = ga[i];
  for (int i = l; i < 64; i += 32) sb[i / 8 * 12 + i % 8] = gb[i];
  __syncwarp();
  unsigned a[4], b[2];
  unsigned at = (unsigned)__cvta_generic_to_shared(sa + (l % 16) * 12 + (l / 16) * 4);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at));
  at = (unsigned)__cvta_generic_to_shared(sb + (l % 8) * 12 + (l / 8 % 2) * 4);
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(b[0]), "=r"(b[1]) : "r"(at));
  for (int kind = 0; kind < 4; ++kind) {
    int c[4] = {kind, kind, kind, kind};
    if (kind == 0) SUM("m16n8k256.row.col.s32.b1.b1.s32.and.popc");
    if (kind == 1) SUM("m16n8k256.row.col.s32.b1.b1.s32.xor.popc");
    if (kind == 2) SUM("m16n8k32.row.col.s32.s8.s8.s32");
    if (kind == 3) SUM("m16n8k32.row.col.s32.u8.s8.s32");
    for (int i = 0; i < 4; ++i) d[kind * 128 + (l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = c[i];
  }
}
"""
COPY = r"""
extern "C" __global__ void k(const uint4 *g, unsigned *out) {
  __shared__ uint4 room[64];
  unsigned to = (unsigned)__cvta_generic_to_shared(&room[threadIdx.x]);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(g + threadIdx.x));
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 0;");
  __syncthreads();
  uint4 v = room[63 - threadIdx.x];
  out[threadIdx.x] = v.x ^ v.y ^ v.z ^ v.w;
}
"""
BARRIER = re.compile(r"^\s*(?:bar|barrier)\.sync\s+0;", re.MULTILINE)


def test_shared_memory_and_barriers():
    require_nvcc()
    given = np.arange(4 * 96, dtype=np.int32)
    ptx = ptx_of(ROTATE)
    _, out = in_every_order(ptx, [given, np.zeros_like(given)], grid=(4, 1, 1), block=(96, 1, 1))
    rows = given.reshape(4, 96)
    np.testing.assert_array_equal(out.reshape(4, 96), (np.roll(rows, -1, 1) * 2)[:, ::-1])


def test_the_fibres_of_other_processors():
    """x86-64 has a switch of its own; elsewhere the C library's is used, and here in a test."""
    require_compiler()
    code = """
import numpy as np
from tests.cuda_emulator import harness
from tvm_insta.cuda_emulator import build
build._EXACT += ("-DEMU_PORTABLE_FIBRES",)
room = ".shared .align 16 .b8 room[256];"
body = "mov.u32 %t, %tid.x; shl.b32 %t, %t, 2; mov.u32 %v, room; add.s32 %v, %v, %t;"
body += "st.shared.u32 [%v], %t; bar.sync 0; xor.b32 %v, %v, 252; ld.shared.u32 %v, [%v];"
body += "cvt.u64.u32 %to, %t; add.s64 %to, %out, %to; st.global.u32 [%to], %v;"
registers = ".reg .b64 %to; .reg .b32 %t, %v;"
ptx = harness.assembly(body, registers, more=room)
(out,) = harness.in_every_order(ptx, [np.zeros(64, np.uint32)], block=(64, 1, 1))
assert (out == 4 * np.arange(63, -1, -1)).all(), out
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_barrier_that_is_cut_out_is_missed():
    require_nvcc()
    ptx, given = ptx_of(ROTATE), np.arange(96, dtype=np.int32)
    cuts = list(BARRIER.finditer(ptx))
    assert len(cuts) == 3
    for cut in cuts:
        with pytest.raises(EmulatorError, match="race in shared memory"):
            without = ptx[: cut.start()] + ptx[cut.end() :]
            launch(without, [given, np.zeros_like(given)], block=(96, 1, 1))


def test_warps():
    require_nvcc()
    rng = np.random.default_rng(SEED)
    x, t = (rng.standard_normal(n).astype(np.float32) for n in (128, 32))
    arrays = [x, t, np.zeros(4, np.uint32), np.zeros((128, 10), np.int32)]
    _, _, words, out = in_every_order(ptx_of(WARP), arrays, grid=(2, 1, 1), block=(64, 1, 1))
    bits = (x.reshape(4, 32) >= t).astype(np.uint64)
    np.testing.assert_array_equal(words, (bits << np.arange(32, dtype=np.uint64)).sum(1))
    lane = np.arange(32)
    want = np.stack(
        [
            np.full(32, lane.sum()),
            np.where(lane + 3 < 32, lane + 3, lane),
            np.where(lane % 8 >= 5, lane - 5, lane),
            np.full(32, 14),
            np.where(lane % 8 + 3 < 8, lane + 3, lane),
            np.zeros(32),
            np.ones(32),
            np.full(32, lane.sum()),
            np.zeros(32),
            np.where(lane < 8, 0xAA, np.int64(0xAAAAAA00) - 2**32),
        ],
        1,
    )
    np.testing.assert_array_equal(out.reshape(4, 32, 10), np.broadcast_to(want, (4, 32, 10)))


def test_matrices():
    require_nvcc()
    rng = np.random.default_rng(SEED)
    a, b = (rng.integers(0, 2**32, (n, 8), dtype=np.uint32) for n in (16, 8))
    ptx = ptx_of(MATRIX)
    _, _, out = in_every_order(ptx, [a, b, np.zeros((4, 16, 8), np.int32)])
    p, q = (np.unpackbits(v.view(np.uint8), axis=1).astype(np.int32) for v in (a, b))
    np.testing.assert_array_equal(out[0], p @ q.T)
    np.testing.assert_array_equal(out[1], 1 + p @ (1 - q).T + (1 - p) @ q.T)
    signed = b.view(np.int8).astype(np.int32).T
    np.testing.assert_array_equal(out[2], 2 + a.view(np.int8).astype(np.int32) @ signed)
    np.testing.assert_array_equal(out[3], 3 + a.view(np.uint8).astype(np.int32) @ signed)


def test_a_matrix_instruction_needs_all_lanes():
    require_nvcc()
    a, b = np.zeros((16, 8), np.uint32), np.zeros((8, 8), np.uint32)
    with pytest.raises(EmulatorError, match="without all 32 lanes"):
        launch(ptx_of(MATRIX), [a, b, np.zeros(512, np.int32)], block=(24, 1, 1))


def test_asynchronous_copies():
    require_nvcc()
    rng = np.random.default_rng(SEED)
    given = rng.integers(0, 2**32, (64, 4), dtype=np.uint32)
    ptx = ptx_of(COPY, "sm_80")
    arrays = [given, np.zeros(64, np.uint32)]
    _, out = in_every_order(ptx, arrays, block=(64, 1, 1))
    np.testing.assert_array_equal(out, np.bitwise_xor.reduce(given, 1)[::-1])
    unwaited = re.sub(r"cp\.async\.wait_group 0;", "", ptx)
    with pytest.raises(EmulatorError, match="race in shared memory"):
        launch(unwaited, arrays, block=(64, 1, 1))


REGISTERS = ".reg .b64 %to; .reg .b32 %t, %v; .reg .pred %p;"
INDEX = "mov.u32 %t, %tid.x; mul.wide.u32 %to, %t, 4; add.s64 %to, %out, %to;"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (INDEX + "st.global.u32 [%to+4], %t;", "global memory out of bounds"),
        (INDEX + "st.global.u32 [%to-4], %t;", "global memory out of bounds"),
        (INDEX + "st.global.u32 [%to+2], %t;", "misaligned|out of bounds"),
        (INDEX + "mov.u32 %v, room; st.shared.u32 [%v+128], %t;", "shared memory out of bounds"),
        (INDEX + "mov.u32 %v, room; st.shared.u32 [%v+2], %t;", "misaligned address in shared"),
        ("st.global.u32 [%out], 1;", "race in global memory: write after write"),
        (
            INDEX + "st.global.u32 [%to], 1; ld.global.u32 %v, [%out];",
            "race in global memory: read",
        ),
        ("mov.u32 %v, room; st.shared.u32 [%v], 1;", "race in shared memory: write after write"),
        (INDEX + "setp.lt.u32 %p, %t, 8; @%p bra L; bar.sync 0; L:", "not reached by all"),
        (
            INDEX + "setp.lt.u32 %p, %t, 8; @%p bra L; bar.sync 0; bra M;\nL: bar.sync 0; M:",
            "different barriers",
        ),
        (
            INDEX
            + "setp.lt.u32 %p, %t, 8; @%p bar.warp.sync 0xffff; @!%p bar.warp.sync 0xffff0000;",
            "not in the mask|no thread can go on",
        ),
        (
            INDEX + "setp.lt.u32 %p, %t, 8; @%p shfl.sync.idx.b32 %v, %t, 9, 31, 0xff;",
            "a lane that does not take part",
        ),
        ("st.global.u32 [0], 1;", "out of bounds"),
    ],
)
def test_what_a_card_does_not_allow(body, why):
    """Each is caught in at least one order; the message names the line and the thread."""
    require_compiler()
    ptx = assembly(body, REGISTERS, more=".shared .align 16 .b8 room[128];")
    messages = []
    for order in Order:
        try:
            launch(ptx, [np.zeros(32, np.uint32)], options=Options(order))
        except EmulatorError as error:
            messages.append(str(error))
    assert any(re.search(why, message) for message in messages), messages
    assert all("of the PTX" in message for message in messages)


def test_two_blocks_that_write_one_place():
    require_compiler()
    ptx = assembly(INDEX + "st.global.u32 [%to], %t;", REGISTERS)
    out = np.zeros(32, np.uint32)
    launch(ptx, [out])
    with pytest.raises(EmulatorError, match="of block number"):
        launch(ptx, [out], grid=(2, 1, 1))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"block": (1025, 1, 1)}, "at most 1024"),
        ({"block": (1, 1, 65)}, "at most 1024|threads"),
        ({"grid": (1, 70000, 1)}, "grid larger"),
        ({"grid": (0, 1, 1)}, "empty grid"),
        ({"shared": 50000}, "more than was asked for"),
        ({"optin": 300000}, "more than the device has"),
        ({"arch": "sm_80"}, "the kernels are for sm_90, the device is an sm_80"),
    ],
)
def test_limits_of_the_device(more, why):
    require_compiler()
    ptx = assembly("", "") + f"// {why}\n"  # a module of its own: loading it is part of the test
    with pytest.raises(EmulatorError, match=why):
        launch(ptx, [np.zeros(1, np.uint32)], **more)


def test_dynamic_shared_memory_can_be_opted_in():
    require_compiler()
    body = INDEX + "mov.u32 %v, room; st.shared.u32 [%v+99996], %t;"
    ptx = assembly(body, REGISTERS, more=".extern .shared .align 16 .b8 room[];")
    out = np.zeros(1, np.uint32)
    launch(ptx, [out], block=(1, 1, 1), shared=100000, optin=100000)
    with pytest.raises(EmulatorError, match="out of bounds"):
        launch(ptx, [out], block=(1, 1, 1), shared=99996, optin=100000)


def test_static_shared_memory_is_limited():
    require_compiler()
    body = "mov.u32 %v, room; st.shared.u32 [%v], 1;"
    ptx = assembly(body, REGISTERS, more=".shared .align 16 .b8 room[49168];")
    with pytest.raises(EmulatorError, match="48 KiB"):
        launch(ptx, [np.zeros(1, np.uint32)], block=(1, 1, 1))


def test_constants_of_a_module():
    require_compiler()
    table = ".const .align 4 .b8 table[8] = {1, 2, 3, 4, 5};"
    body = INDEX + "mov.u64 %to, table; ld.const.u32 %v, [%to+4]; st.global.u32 [%out], %v;"
    (out,) = launch(
        assembly(body, REGISTERS, more=table), [np.zeros(1, np.uint32)], block=(1, 1, 1)
    )
    assert out[0] == 5
    body = INDEX + "mov.u64 %to, table; st.global.u32 [%to], %t;"
    with pytest.raises(EmulatorError, match="constant memory"):
        launch(assembly(body, REGISTERS, more=table), [np.zeros(1, np.uint32)], block=(1, 1, 1))


def test_names_of_launched_kernels():
    require_compiler()
    device = cuda_emulator.start()
    device.take_names()
    before = device.launches
    launch(assembly("", ""), [np.zeros(1, np.uint32)])
    assert device.take_names() == ["k"]
    assert device.launches == before + 1


def test_an_unknown_architecture():
    with pytest.raises(EmulatorError, match="emulator knows sm_75"):
        cuda_emulator.start("sm_12")
