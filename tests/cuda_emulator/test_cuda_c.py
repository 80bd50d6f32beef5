"""The second tier: TVM's CUDA C by the machine's own compiler, without nvcc."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cuda_emulator import nets
from tests.cuda_emulator.harness import in_every_order, launch, require_compiler
from tvm_insta import cuda_emulator
from tvm_insta.codegen import cuda_device
from tvm_insta.codegen.nvcc_compile import DeviceCode
from tvm_insta.cuda_emulator import EmulatorError
from tvm_insta.cuda_emulator.cuda_c import image, translate
from tvm_insta.errors import ArtefactError

SEED = 11


def module(body, parameters="int* __restrict__ out", *, threads=64, arch="sm_90", more=""):
    """A text of CUDA C with one kernel `k`, as the emulated driver takes it."""
    declared = f'extern "C" __global__ void __launch_bounds__({threads}) k({parameters})'
    return image(f"{more}\n{declared};\n{declared} {{\n{body}\n}}\n", arch).decode()


@pytest.fixture(scope="module")
def without_nvcc(tmp_path_factory):
    """A network for CUDA whose artefact holds the CUDA C itself, and the CPU's, in two folders."""
    require_compiler()
    sources = []

    def keep(source, arch, _compiler):
        sources.append(source)
        return DeviceCode(image(source, arch), ())

    folder = tmp_path_factory.mktemp("without_nvcc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_device, "find_nvcc", lambda: Path("/nowhere/bin/nvcc"))
        patch.setattr("tvm_insta.codegen.relax_vm.find_nvcc", lambda: None)
        patch.setattr(cuda_device, "compile_device_code", keep)
        torch.manual_seed(SEED)
        nets.build(nets.Small().eval(), 9, 4, folder)
    return folder, sources[0]


def test_a_network_gives_the_bytes_of_the_cpu(without_nvcc):
    folder, _ = without_nvcc
    cpu = tvm_insta.load(folder / "cpu")
    cuda = tvm_insta.load(folder / "cuda", device="emulated")
    given = nets.images(3, 9)
    for order in cuda_emulator.Order:
        device = cuda_emulator.start("sm_90", cuda_emulator.Options(order))
        device.take_names()
        assert cuda(given).tobytes() == cpu(given).tobytes(), order
    assert len(device.take_names()) == len(cuda.manifest.kernels)


def test_every_barrier_is_missed(without_nvcc, monkeypatch):
    """Of the kernels that tvm_insta makes: without any one of them there is a race."""
    folder, source = without_nvcc
    barriers = [found.span() for found in re.finditer(r"__syncthreads\(\);", source)]
    assert len(barriers) >= 2
    for start, end in barriers:
        cut = image(source[:start] + source[end:], "sm_90").decode()
        monkeypatch.setattr(cuda_emulator.device, "ptx_at", lambda _, text=cut: text)
        cuda_emulator.start("sm_90")
        module = tvm_insta.load(folder / "cuda", device="emulated")
        with pytest.raises(ArtefactError, match="race in shared memory"):
            module(nets.images(1, 9))


SUM = r"""
  __shared__ alignas(16) float room_ptr[64];
  *(float2*)(room_ptr + (((int)threadIdx.x) * 2)) = *(float2*)(in_ptr + (((int)threadIdx.x) * 2));
  __syncthreads();
  float2 v_ = *(float2*)(room_ptr + (62 - (((int)threadIdx.x) * 2)));
  out_ptr[((int)threadIdx.x)] = fmaf(v_.x, v_.y, (room_ptr[((int)threadIdx.x)] * 2.000000e+00f));
"""


def test_vectors_of_floats():
    require_compiler()
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal(64).astype(np.float32)
    parameters = "float* __restrict__ in_ptr, float* __restrict__ out_ptr"
    text = module(SUM, parameters, threads=32)
    _, out = in_every_order(text, [x, np.zeros(32, np.float32)], block=(32, 1, 1))
    pairs = x.reshape(32, 2)[::-1].astype(np.float64)
    twice = (x[:32] * np.float32(2)).astype(np.float64)
    np.testing.assert_array_equal(out, (pairs.prod(1) + twice).astype(np.float32))


MATRIX = r"""
  __shared__ alignas(64) uint a_ptr[192];
  __shared__ alignas(64) uint b_ptr[96];
  alignas(64) uint fa_ptr[4];
  alignas(64) uint fb_ptr[2];
  alignas(64) int c_ptr[4];
  for (int i = 0; i < 4; ++i) {
    a_ptr[(i * 48) + ((((int)threadIdx.x) >> 3) * 12) + (((int)threadIdx.x) & 7)] = ga_ptr[(i * 32) + ((int)threadIdx.x)];
    c_ptr[i] = 7;
  }
  for (int i = 0; i < 2; ++i) {
    b_ptr[(i * 48) + ((((int)threadIdx.x) >> 3) * 12) + (((int)threadIdx.x) & 7)] = gb_ptr[(i * 32) + ((int)threadIdx.x)];
  }
  __syncthreads();
  {
    unsigned int addr = __cvta_generic_to_shared((&(a_ptr[0])) + (((((int)threadIdx.x) & 15) * 12) + ((((int)threadIdx.x) >> 4) * 4)));
    __asm__ __volatile__(
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
      "{%0, %1, %2, %3}, [%4];\n"
      : "=r"(((unsigned *)(fa_ptr + 0))[0]), "=r"(((unsigned *)(fa_ptr + 0))[1]), "=r"(((unsigned *)(fa_ptr + 0))[2]), "=r"(((unsigned *)(fa_ptr + 0))[3])
      : "r"(addr)
    );
  }
  {
    unsigned int addr = __cvta_generic_to_shared((&(b_ptr[0])) + (((((int)threadIdx.x) & 7) * 12) + (((((int)threadIdx.x) & 15) >> 3) * 4)));
    __asm__ __volatile__(
      "ldmatrix.sync.aligned.m8n8.x2.shared.b16"
      "{%0, %1}, [%2];\n"
      : "=r"(((unsigned *)(fb_ptr + 0))[0]), "=r"(((unsigned *)(fb_ptr + 0))[1])
      : "r"(addr)
    );
  }
  {
    __asm__ __volatile__(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc"
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
      :  "=r"(((int *)(c_ptr + 0))[0]), "=r"(((int *)(c_ptr + 0))[1]), "=r"(((int *)(c_ptr + 0))[2]), "=r"(((int *)(c_ptr + 0))[3])
      : "r"(((unsigned *)(fa_ptr + 0))[0]), "r"(((unsigned *)(fa_ptr + 0))[1]), "r"(((unsigned *)(fa_ptr + 0))[2]), "r"(((unsigned *)(fa_ptr + 0))[3]), "r"(((unsigned *)(fb_ptr + 0))[0]), "r"(((unsigned *)(fb_ptr + 0))[1]), "r"(((int *)(c_ptr + 0))[0]), "r"(((int *)(c_ptr + 0))[1]), "r"(((int *)(c_ptr + 0))[2]), "r"(((int *)(c_ptr + 0))[3])
    );
  }
  for (int i = 0; i < 2; ++i) {
    *(int2*)(out_ptr + ((i * 64) + ((((int)threadIdx.x) >> 2) * 8) + ((((int)threadIdx.x) & 3) * 2))) = *(int2*)(c_ptr + (i * 2));
  }
"""  # noqa: E501  as TVM writes it


def test_matrices_by_inline_assembly():
    require_compiler()
    rng = np.random.default_rng(SEED)
    a, b = (rng.integers(0, 2**32, (n, 8), dtype=np.uint32) for n in (16, 8))
    parameters = "uint* __restrict__ ga_ptr, uint* __restrict__ gb_ptr, int* __restrict__ out_ptr"
    text = module(
        MATRIX, parameters, threads=32, more="#include <mma.h>\n#define uint unsigned int"
    )
    _, _, out = in_every_order(text, [a, b, np.zeros((16, 8), np.int32)])
    p, q = (np.unpackbits(v.view(np.uint8), axis=1).astype(np.int32) for v in (a, b))
    np.testing.assert_array_equal(out, 7 + p @ q.T)
    cut = re.sub(r"__syncthreads\(\);", "", text)
    with pytest.raises(EmulatorError, match="race in shared memory"):
        launch(cut, [a, b, np.zeros((16, 8), np.int32)])


COPY = r"""
  __shared__ alignas(64) uint4 room_ptr[64];
  {
    unsigned int addr = __cvta_generic_to_shared(room_ptr + ((int)threadIdx.x));
    __asm__ __volatile__(
      "cp.async.cg.shared.global [%0], [%1], %2;"
      :: "r"(addr), "l"((void*)(in_ptr + (((int)threadIdx.x) * 4))), "n"(16)
    );
  }
  __asm__ __volatile__("cp.async.commit_group;");
  __asm__ __volatile__("cp.async.wait_group 0;");
  __syncthreads();
  uint4 v_ = room_ptr[63 - ((int)threadIdx.x)];
  out_ptr[((int)threadIdx.x)] = ((v_.x ^ v_.y) ^ (v_.z ^ v_.w));
"""


def test_asynchronous_copies():
    require_compiler()
    rng = np.random.default_rng(SEED)
    given = rng.integers(0, 2**32, (64, 4), dtype=np.uint32)
    parameters = "uint* __restrict__ in_ptr, uint* __restrict__ out_ptr"
    text = module(COPY, parameters, more="#define uint unsigned int")
    arrays = [given, np.zeros(64, np.uint32)]
    _, out = in_every_order(text, arrays, block=(64, 1, 1))
    np.testing.assert_array_equal(out, np.bitwise_xor.reduce(given, 1)[::-1])
    unwaited = text.replace('__asm__ __volatile__("cp.async.wait_group 0;");', "")
    with pytest.raises(EmulatorError, match="race in shared memory"):
        launch(unwaited, arrays, block=(64, 1, 1))


WARP = r"""
  int lane = ((int)threadIdx.x) & 31;
  unsigned word = __ballot_sync(0xffffffffu, (in_ptr[((int)threadIdx.x)] >= 0));
  int sum = lane;
  for (int d = 16; d > 0; d = d / 2) sum = sum + __shfl_xor_sync(0xffffffffu, sum, d);
  out_ptr[(((int)threadIdx.x) * 5)] = ((int)word);
  out_ptr[(((int)threadIdx.x) * 5) + 1] = sum;
  out_ptr[(((int)threadIdx.x) * 5) + 2] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
  out_ptr[(((int)threadIdx.x) * 5) + 3] = __shfl_up_sync(0xffffffffu, lane, 5, 8);
  out_ptr[(((int)threadIdx.x) * 5) + 4] = __popc(((unsigned)__shfl_sync(0xffffffffu, lane, 7)));
"""


def test_warps():
    require_compiler()
    x = np.random.default_rng(SEED).integers(-9, 9, 64).astype(np.int32)
    parameters = "int* __restrict__ in_ptr, int* __restrict__ out_ptr"
    _, out = in_every_order(
        module(WARP, parameters), [x, np.zeros((64, 5), np.int32)], block=(64, 1, 1)
    )
    words = ((x.reshape(2, 32) >= 0).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
    lane = np.arange(64) % 32
    want = [
        np.repeat(words.astype(np.uint32).view(np.int32), 32),
        np.full(64, 31 * 16),
        np.where(lane % 8 + 3 < 8, lane + 3, lane),
        np.where(lane % 8 >= 5, lane - 5, lane),
        np.full(64, 3),
    ]
    np.testing.assert_array_equal(out, np.stack(want, 1))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("out[((int)threadIdx.x) + 1] = 1;", r"global memory out of bounds.*\(block 0,0,0"),
        ("*(int2*)(out + 1) = make_int2(1, 1);", "misaligned address in global|out of bounds"),
        ("out[0] = 1;", "race in global memory: write after write"),
        ("__shared__ int a[4]; a[((int)threadIdx.x)] = 1;", "shared memory out of bounds"),
        ("__shared__ int a[4]; a[0] = 1;", "race in shared memory"),
        ("if (((int)threadIdx.x) < 3) {\n __syncthreads();\n}", "line 3 of the CUDA C|not reached"),
        (
            '__asm__ __volatile__("ex2.approx.f32 %0, %1;" : "=r"(q) : "r"(1));',
            "line 4.*ex2.approx",
        ),
        ('__asm__ __volatile__("mov.u32 %0, 1;" :: "r"(1), "q"(2));', "line 4.*operand"),
        ('__asm__ __volatile__("add.u32 %0, 1;" : "=r"(out[0]));', "add.u32 with 2 operands"),
        ("out[0] = __nv_unknown(1);", "could not compile.*__nv_unknown"),
        ("__shared__ wmma_t a[4];", "the type wmma_t of the CUDA C is not known"),
    ],
)
def test_what_is_refused(body, why):
    require_compiler()
    with pytest.raises(EmulatorError, match=why):
        launch(module(body), [np.zeros(32, np.int32)])


def test_assembly_with_registers_and_guards_of_its_own():
    require_compiler()
    body = """
  int v = 5;
  __asm__ __volatile__(
    "{\\n .reg .pred p;\\n .reg .b32 q;\\n setp.lt.u32 p, %1, 7;\\n mov.b32 q, %2;\\n"
    " @p add.u32 %0, %0, q;\\n}\\n"
    : "+r"(v) : "r"(((int)threadIdx.x)), "n"(100) : "memory");
  out[((int)threadIdx.x)] = v;
"""
    (out,) = in_every_order(module(body), [np.zeros(32, np.int32)])
    np.testing.assert_array_equal(out, np.where(np.arange(32) < 7, 105, 5))


def test_limits_are_those_of_the_first_tier():
    require_compiler()
    with pytest.raises(EmulatorError, match="more threads than its"):
        launch(module("", threads=32), [np.zeros(1, np.int32)], block=(64, 1, 1))
    with pytest.raises(EmulatorError, match="48 KiB"):
        launch(module("__shared__ int a[12289]; a[0] = 1;"), [np.zeros(1, np.int32)])
    with pytest.raises(EmulatorError, match="the kernels are for sm_90, the device is an sm_80"):
        launch(module("", more="// newer"), [np.zeros(1, np.int32)], arch="sm_80")


def test_the_lines_are_those_of_the_source():
    text = module("__syncthreads();\n__syncthreads();")
    lines = translate(text).splitlines()
    start = lines.index("#line 1") + 1
    wanted = text.splitlines()[1:].index("__syncthreads();")
    assert lines[start + wanted].startswith("__syncthreads();")
