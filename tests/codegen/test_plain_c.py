"""The plain-C form: numbers, independence of TVM, and what its C interface refuses."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, te

from tests.support import artefact_nets as nets
from tvm_insta import runtime
from tvm_insta.codegen import CodegenError, c_form
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.raw import STACK_BYTES
from tvm_insta.runtime.arrays import aligned_empty
from tvm_insta.runtime.c_backend import _Event as Event
from tvm_insta.target import parse

OK, NULL, BATCH, ALIGNMENT, OVERLAP, CPU, BUSY, OPTIONS = range(8)
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_both_forms_give_the_same_bits(c_folder, vm_folder, batch):
    x = nets.images(batch)
    c, vm = runtime.load(c_folder)(x), runtime.load(vm_folder)(x)
    assert c.tobytes() == vm.tobytes()
    # 144 float32 products per output, then exp of a value below 4 in size: 1e-5 is 80 ulp.
    np.testing.assert_allclose(c, nets.conv_net_numpy(x), rtol=1e-5)


def test_needs_libc_and_libm_only(c_folder):
    library = ElfFile(c_folder / "model.so")
    assert library.needed()
    assert all(name.startswith(("libc.so", "libm.so")) for name in library.needed())
    listed = subprocess.run(
        ["readelf", "-dW", c_folder / "model.so"], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in listed.splitlines() if "(NEEDED)" in line]
    assert needed == library.needed()
    undefined = [name.partition("@")[0] for name in library.undefined()]
    assert not [name for name in undefined if "tvm" in name.lower()]
    threads = "aligned_alloc clock_gettime free getpid sched_yield sigfillset sysconf"
    assert set(undefined) <= {"expf", "memset", "memcpy", *threads.split()}
    # In a C library before glibc 2.34 these may be missing, and the library must load all the same.
    weak = {name.partition("@")[0] for name in library.visible()} - set(undefined)
    assert "pthread_create" in weak and "pthread_create" not in set(undefined)


def test_exports_the_interface_and_nothing_else(c_folder):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", c_folder / "model.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exported = {line.split()[2] for line in listed.splitlines()}
    ends = "init run error missing_feature input_shape output_shape set_observer weights_sha256"
    ends += " set_threads input_dtype output_dtype"
    assert exported == {f"model_{end}" for end in ends.split()}


def test_parallel_loops_and_local_arrays(tmp_path):
    """A kernel with a parallel loop, a large and a small local array: no TVM call is left."""

    def scheduled(batch):
        mod = nets.conv_net(batch, channels=64)
        sch = s_tir.Schedule(mod)
        sch.work_on("fused_conv2d_add_relu_add1")
        conv = sch.get_sblock("conv2d_nhwc")
        sch.parallel(sch.get_loops(conv)[1])
        block = sch.get_sblock("T_add")
        sch.compute_at(conv, sch.get_loops(block)[2])  # 256 bytes: stays on the stack
        sch.vectorize(sch.get_loops(block)[-1])
        return sch.mod

    target = parse(nets.NATIVE)
    form = c_form(scheduled(1), target, tmp_path / "c")
    at = next(i for i, call in enumerate(form.plan.program.calls) if "conv2d" in call.symbol)
    sizes = [place.size for place in form.plan.shared[at]]
    assert sizes == sorted(sizes) or sizes
    assert all(size > STACK_BYTES for size in sizes)
    assert 10 * 10 * 64 * 4 in sizes  # the padded image
    c = nets.write_artefact(tmp_path / "c2", "c", make=scheduled)
    vm = nets.write_artefact(tmp_path / "vm", "vm", make=scheduled)
    x = nets.images(3, channels=64)
    got = runtime.load(c)(x)
    assert got.tobytes() == runtime.load(vm)(x).tobytes()
    np.testing.assert_allclose(got, nets.conv_net_numpy(x, 64), rtol=1e-4)  # 576 products


def integer_net(batch):
    """uint8 image in, exact int32 sums out; one kernel with two outputs."""

    def split(x):
        low = te.compute(x.shape, lambda *i: (x(*i) % 16).astype("int32"), name="low")
        high = te.compute(x.shape, lambda *i: (x(*i) // 16).astype("int32"), name="high")
        return [low, high]

    def body(builder, x):
        both = builder.emit_te(split, x)
        low = builder.emit(relax.TupleGetItem(both, 0))
        high = builder.emit(relax.TupleGetItem(both, 1))
        scaled = builder.emit(relax.op.multiply(high, relax.const(np.int32(100))))
        return builder.emit(relax.op.sum(builder.emit(relax.op.add(low, scaled)), [2]))

    return nets.network(batch, body, shape=(8, 5), dtype="uint8", fuse=False)


def test_bytes_in_integers_out_and_two_outputs_of_one_kernel(tmp_path):
    rng = np.random.default_rng(nets.SEED)
    x = rng.integers(0, 256, (4, 8, 5), dtype=np.uint8)
    expected = (x % 16 + 100 * (x.astype("int32") // 16)).sum(2).astype("int32")
    for form in ("c", "vm"):
        module = runtime.load(nets.write_artefact(tmp_path / form, form, make=integer_net))
        np.testing.assert_array_equal(module(x), expected)
        entries = module.trace(x)
        assert [len(entry.outputs) for entry in entries] == [2, 1, 1, 1]
        np.testing.assert_array_equal(entries[0].outputs[0], x % 16)
        np.testing.assert_array_equal(entries[0].outputs[1], x // 16)
    assert "const uint8_t *input, int32_t *output" in (tmp_path / "c" / "model.h").read_text()


def test_two_inputs(tmp_path):
    builder = relax.BlockBuilder()
    a = relax.Var("a", relax.TensorType([1, 6], "float32"))
    b = relax.Var("b", relax.TensorType([1, 6], "int8"))
    with builder.function("main", [a, b]):
        with builder.dataflow():
            out = builder.emit(relax.op.astype(b, "float32"))
            out = builder.emit_output(builder.emit(relax.op.subtract(a, out)))
        builder.emit_func_output(out)
    folder = nets.write_artefact(tmp_path / "net", "c", make=lambda _: nets.legalise(builder.get()))
    rng = np.random.default_rng(nets.SEED)
    x, y = rng.standard_normal((3, 6)).astype("float32"), rng.integers(-9, 9, (3, 6), np.int8)
    np.testing.assert_array_equal(runtime.load(folder)(x, y), x - y)
    with pytest.raises(runtime.module.InputError, match="got 1 inputs, the model takes 2: a, b"):
        runtime.load(folder)(x)
    with pytest.raises(runtime.module.InputError, match="same batch"):
        runtime.load(folder)(x, y[:2])


class CModel:
    """The C interface, through ctypes, as a C program sees it."""

    def __init__(self, folder: Path, name: str = "model") -> None:
        self.lib = ctypes.CDLL(str(folder / f"{name}.so"))
        self.run = self.lib[f"{name}_run"]
        self.run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
        self.init = self.lib[f"{name}_init"]
        self.init.argtypes = [ctypes.c_void_p]
        self.missing_feature = self.lib[f"{name}_missing_feature"]
        self.missing_feature.restype = ctypes.c_char_p
        self.error = self.lib[f"{name}_error"]
        self.error.restype = ctypes.c_char_p


def test_c_interface_refuses_bad_arguments(c_folder):
    model = CModel(c_folder)
    x = aligned_empty((2, 8, 8, 16), "float32")
    x[...] = nets.images(2)
    out = aligned_empty((2, 10), "float32")
    src, dst = x.ctypes.data, out.ctypes.data
    assert model.run(src, dst, 2) == OK
    assert model.run(None, dst, 2) == NULL
    assert model.run(src, None, 2) == NULL
    assert model.run(src, dst, 0) == BATCH
    assert model.run(src, dst, -(2**31)) == BATCH
    assert model.run(src + 2, dst, 1) == ALIGNMENT
    assert model.run(src, dst + 1, 1) == ALIGNMENT
    assert model.run(src, src + 4, 1) == OVERLAP
    assert model.run(src, src + 8 * 8 * 16 * 4 - 4, 1) == OVERLAP
    texts = {model.error(code) for code in range(11)}
    assert len(texts) == 11 and all(len(text) > 5 for text in texts)


def test_any_element_aligned_pointer_gives_the_same_bits(c_folder):
    model = CModel(c_folder)
    x = nets.images(3)
    expected = runtime.load(c_folder)(x)
    for shift in (4, 8, 20, 60):
        source = np.zeros(x.nbytes + 128, np.uint8)
        target = np.zeros(expected.nbytes + 128, np.uint8)
        start = -source.ctypes.data % 64 + shift
        goal = -target.ctypes.data % 64 + 64 - shift
        source[start : start + x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
        code = model.run(source.ctypes.data + start, target.ctypes.data + goal, 3)
        assert code == OK
        assert target[goal : goal + expected.nbytes].tobytes() == expected.tobytes()
        assert not target[:goal].any() and not target[goal + expected.nbytes :].any()


def test_kernels_write_to_aligned_memory_wherever_the_caller_s_is(c_folder):
    model = CModel(c_folder)
    x = nets.images(2)
    memory = np.zeros(2 * 10 * 4 + 128, np.uint8)
    goal = memory.ctypes.data + -memory.ctypes.data % 64 + 4
    seen = []

    def observe(event, _user):
        seen.append((event.contents.call, event.contents.data))

    observer = ctypes.CFUNCTYPE(None, ctypes.POINTER(Event), ctypes.c_void_p)(observe)
    model.lib.model_set_observer(observer, None)
    try:
        assert model.run(x.ctypes.data, goal, 2) == OK
    finally:
        model.lib.model_set_observer(None, None)
    assert [call for call, _ in seen] == [0, 1, 2] * 2
    assert all(address % 64 == 0 for _, address in seen)


def test_options_and_shapes(c_folder):
    model = CModel(c_folder)

    class Options(ctypes.Structure):
        _fields_ = (("size", ctypes.c_size_t), ("flags", ctypes.c_uint32))

    size = ctypes.sizeof(Options)
    assert model.init(None) == OK
    assert model.init(ctypes.byref(Options(size, 1))) == OK
    assert model.init(ctypes.byref(Options(size, 2))) == OPTIONS
    assert model.init(ctypes.byref(Options(size - 1, 0))) == OPTIONS
    shape = model.lib.model_input_shape
    shape.restype = ctypes.POINTER(ctypes.c_int32)
    rank = ctypes.c_int32()
    dims = shape(0, ctypes.byref(rank))
    assert [dims[i] for i in range(rank.value)] == [1, 8, 8, 16]
    assert not shape(1, ctypes.byref(rank)) and not shape(-1, ctypes.byref(rank))
    assert not shape(0, None)
    dims = model.lib.model_output_shape
    dims.restype = ctypes.POINTER(ctypes.c_int32)
    found = dims(ctypes.byref(rank))
    assert [found[i] for i in range(rank.value)] == [1, 10]


def test_a_run_within_a_run_is_refused(c_folder):
    model = CModel(c_folder)
    x, out = nets.images(1), np.empty((1, 10), np.float32)
    codes = []
    observer = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
        lambda _event, _user: codes.append(model.run(x.ctypes.data, out.ctypes.data, 1))
    )
    model.lib.model_set_observer(observer, None)
    try:
        assert model.run(x.ctypes.data, out.ctypes.data, 1) == OK
    finally:
        model.lib.model_set_observer(None, None)
    assert codes == [BUSY] * 3  # once per kernel
    assert model.run(x.ctypes.data, out.ctypes.data, 1) == OK and len(codes) == 3


def test_a_missing_cpu_feature_is_named(tmp_path):
    # Only a few AMD processors, sold until 2017, have TBM.
    target = dataclasses.replace(parse(nets.NATIVE), needs=("avx2", "tbm"))
    folder = nets.write_artefact(tmp_path / "net", "c", target)
    model = CModel(folder)
    x, out = nets.images(1), np.empty((1, 10), np.float32)
    assert model.missing_feature() == b"tbm"
    assert model.init(None) == CPU
    assert model.run(x.ctypes.data, out.ctypes.data, 1) == CPU
    with pytest.raises(runtime.module.ArtefactError, match="needs the CPU features tbm"):
        runtime.load(folder)
    # Without checks the same library runs: this network uses no TBM instruction.
    assert np.isfinite(runtime.load(folder, check=False)(x)).all()


def test_two_models_in_one_program(tmp_path):
    for name in ("first", "second"):
        c_form(nets.conv_net(1), parse(nets.NATIVE), tmp_path, name)
    (tmp_path / "both.c").write_text(
        '#include "first.h"\n#include "second.h"\n'
        "static float in[FIRST_INPUT_ELEMENTS], a[FIRST_OUTPUT_ELEMENTS], b[10];\n"
        "int main(void) {\n"
        "  for (unsigned i = 0; i < FIRST_INPUT_ELEMENTS; i++) in[i] = (float)i / 512.0f - 1.0f;\n"
        "  if (first_run(in, a, 1) != FIRST_OK || second_run(in, b, 1) != SECOND_OK) return 1;\n"
        "  for (int i = 0; i < 10; i++)\n"
        "    if (!(a[i] > 0.0f && a[i] == b[i])) return 2;\n"
        "  return 0;\n}\n"
    )
    program = tmp_path / "both"
    archives = [tmp_path / "first.a", tmp_path / "second.a"]
    subprocess.run(
        ["gcc", *STRICT, tmp_path / "both.c", *archives, "-lm", "-o", program], check=True
    )
    assert subprocess.run([program], check=False).returncode == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_header_is_cpp_too(c_folder, tmp_path):
    source = tmp_path / "use.cpp"
    source.write_text('#include "model.h"\nint main() { return model_init(nullptr); }\n')
    program = tmp_path / "use"
    archive = c_folder / "model.a"
    command = ["g++", "-Wall", "-Wextra", "-Werror", "-I", c_folder, source, archive, "-lm"]
    subprocess.run([*command, "-o", program], check=True)
    assert subprocess.run([program], check=False).returncode == 0


def test_same_input_same_files(tmp_path):
    for folder in ("a", "b"):
        c_form(nets.conv_net(1), parse(nets.NATIVE), tmp_path / folder)
    for name in ("model.so", "model.a", "model.h"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


class TestRefusals:
    target = parse(nets.NATIVE)

    def test_symbolic_batch(self, tmp_path):
        with pytest.raises(
            CodegenError, match=r"x has the symbolic shape \['batch', 8, 8, 16\].*batch 1"
        ):
            c_form(nets.conv_net(None), self.target, tmp_path)

    def test_name(self, tmp_path):
        with pytest.raises(CodegenError, match="'my-net' cannot prefix C functions"):
            c_form(nets.conv_net(1), self.target, tmp_path, "my-net")

    def test_cuda(self, tmp_path):
        with pytest.raises(CodegenError, match="for CPUs"):
            c_form(nets.conv_net(1), parse("cuda -arch=sm_90"), tmp_path)

    def test_unlowered_operator(self, tmp_path):
        builder = relax.BlockBuilder()
        x = relax.Var("x", relax.TensorType([1, 4], "float32"))
        with builder.function("main", [x]):
            with builder.dataflow():
                out = builder.emit_output(relax.op.exp(x))
            builder.emit_func_output(out)
        with pytest.raises(CodegenError, match=r"relax\.exp is not lowered"):
            c_form(builder.get(), self.target, tmp_path)

    def test_output_that_no_kernel_computes(self, tmp_path):
        mod = nets.network(1, lambda _builder, x: x)
        with pytest.raises(CodegenError, match="must return one tensor that a kernel computes"):
            c_form(mod, self.target, tmp_path)

    def test_call_into_the_tvm_runtime(self, tmp_path):
        def te_call(x):
            return te.extern(
                [x.shape],
                [x],
                lambda _ins, _outs: tvm.tirx.call_packed("some.f", 1),
                dtype="float32",
            )

        mod = nets.network(1, lambda builder, x: builder.emit_te(te_call, x))
        with pytest.raises(CodegenError, match=r"still call \w*TVM\w*.*vm form"):
            c_form(mod, self.target, tmp_path)
        assert not list(tmp_path.iterdir())
