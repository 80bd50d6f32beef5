"""Loading and running artefacts of both forms, and everything the loader refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.support import artefact_nets as nets
from tvm_insta import runtime
from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime.arrays import aligned_empty, to_aligned
from tvm_insta.runtime.manifest import sealed

both = pytest.mark.parametrize("form", ["c", "vm"])


def edit(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **changes})))


@both
def test_folder_library_or_manifest(built, form):
    x = nets.images(2)
    for path in (built[form], built[form] / "model.so", str(built[form] / "model.json")):
        module = runtime.load(path)
        assert module.form == form and module.manifest.classes == nets.CLASSES
        np.testing.assert_allclose(module(x), nets.conv_net_numpy(x), rtol=1e-5)
    assert form in repr(module)


def refuse(module, x):
    with pytest.raises(InputError):
        module(x[:, 1:])


USES = {
    "load": lambda module, x: None,
    "run": lambda module, x: module(x),
    "trace": lambda module, x: module.trace(x),
    "benchmark": lambda module, x: module.benchmark(x, warmup=0, repeat=1),
    "error": refuse,
}
DROPPED = """
import gc, pathlib, sys, weakref
from tests.runtime.test_module import USES, nets, runtime
def mappings():
    return pathlib.Path("/proc/self/maps").read_text().count("model.so")
def tasks():
    return len(list(pathlib.Path("/proc/self/task").iterdir()))
gc.collect()
gc.disable()
x, before = nets.images(2), tasks()
for name, use in USES.items():
    for threads in (None, 2):
        module = runtime.load(sys.argv[1], threads=threads)
        use(module, x)
        assert mappings() > 0, name
        held = weakref.ref(module)
        del module
        assert held() is None and mappings() == 0, (name, threads)
        assert sys.argv[2] == "vm" or tasks() == before, (name, threads)
"""


@both
def test_what_a_module_holds_goes_with_its_last_reference(built, form, pytestconfig):
    """Without Python's garbage collector: the library is closed, the plain-C form's threads end."""
    command = [sys.executable, "-c", DROPPED, str(built[form]), form]
    subprocess.run(command, check=True, cwd=pytestconfig.rootpath)


def shorter(data):
    del data["kernels"][-1]


def another_rank(data):
    data["inputs"][0]["shape"].append(1)


def larger(data):
    data["inputs"][0]["shape"][1] = 2**30


def two_inputs(data):
    data["inputs"] *= 2


def another_output(data):
    data["outputs"][0]["shape"][1] += 1


def another_dtype(data):
    data["kernels"][0]["outputs"][0]["dtype"] = "int32"


@pytest.mark.parametrize(
    "change", [shorter, another_rank, larger, two_inputs, another_output, another_dtype]
)
def test_the_vm_form_is_compared_with_its_library(copy, change):
    """Without running a kernel; what a manifest claims takes no memory, however large it is."""
    folder = copy("vm")
    data = json.loads((folder / "model.json").read_text())
    change(data)
    edit(folder, **data)
    with pytest.raises(ArtefactError, match="describes another network than its library"):
        runtime.load(folder)


@both
def test_every_batch_position_gives_the_same_bits(built, form):
    module = runtime.load(built[form])
    x = nets.images(8)
    whole = module(x)
    assert whole.shape == (8, 10) and whole.dtype == np.float32
    for i in range(8):
        assert module.run(x[i : i + 1]).tobytes() == whole[i].tobytes()


@both
def test_dlpack_and_any_strides(built, form):
    torch = pytest.importorskip("torch")
    module = runtime.load(built[form])
    x = nets.images(4)
    expected = module(x).tobytes()
    assert module(torch.from_numpy(x)).tobytes() == expected
    channels_first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    assert module(torch.from_numpy(channels_first).permute(0, 2, 3, 1)).tobytes() == expected
    assert module(np.asfortranarray(x)).tobytes() == expected
    assert module(np.repeat(x, 2, axis=0)[::2]).tobytes() == expected
    frozen = x.copy()
    frozen.flags.writeable = False
    assert module(frozen).tobytes() == expected
    shifted = np.zeros(x.size + 1, np.float32)[1:].reshape(x.shape)
    shifted[...] = x
    assert module(shifted).tobytes() == expected
    with pytest.raises(InputError, match="detach"):
        module(torch.from_numpy(x).requires_grad_())
    with pytest.raises(InputError, match=r"has dtype float64.*astype\('float32'\)"):
        module(torch.from_numpy(x).double())
    with pytest.raises(InputError, match="through DLPack"):
        module(torch.from_numpy(x).bfloat16())
    with pytest.raises(InputError, match="through DLPack"):
        module(torch.from_numpy(x).to("meta"))


@both
def test_a_negation_that_pytorch_has_only_noted(built, form):
    torch = pytest.importorskip("torch")
    module = runtime.load(built[form])
    x = nets.images(4)
    noted = torch.complex(torch.zeros(x.shape), torch.from_numpy(-x)).conj().imag
    assert noted.is_neg()
    assert module(noted).tobytes() == module(x).tobytes()


@both
@pytest.mark.parametrize("threads", [0, -1, "2", 1.5])
def test_impossible_numbers_of_threads(built, form, threads):
    with pytest.raises(InputError, match="at least 1 thread is needed"):
        runtime.load(built[form], threads=threads)


class OnGpu:
    """A tensor of another device."""

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **_):
        raise AssertionError("must not be asked for")


@both
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nets.images(2)[0], r"shape \[8, 8, 16\], the model takes \[batch, 8, 8, 16\]; add the b"),
        (nets.images(2)[:, :7], r"shape \[2, 7, 8, 16\].*resize or transpose"),
        (nets.images(2).transpose(0, 3, 1, 2), r"shape \[2, 16, 8, 8\]"),
        (nets.images(2)[None], r"shape \[1, 2, 8, 8, 16\]"),
        (np.zeros((), np.float32), r"shape \[\]"),
        (nets.images(9), "batch of 9, the model takes 1 to 8; split"),
        (nets.images(2)[:0], "batch of 0, the model takes 1 to 8"),
        (nets.images(2).astype("float64"), "has dtype float64, the model takes float32"),
        (nets.images(2).astype(">f4"), "has dtype >f4"),
        (nets.images(2).tolist(), "is a list; pass a numpy array"),
        (None, "is a NoneType; pass a numpy array"),
        (OnGpu(), "DLPack device type 2, but this call takes tensors of the CPU"),
    ],
)
def test_wrong_inputs(built, form, value, message):
    with pytest.raises(InputError, match=message):
        runtime.load(built[form])(value)


@both
def test_wrong_number_of_inputs(built, form):
    module = runtime.load(built[form])
    for inputs in ((), (nets.images(1), nets.images(1))):
        with pytest.raises(InputError, match=f"got {len(inputs)} inputs, the model takes 1: x"):
            module(*inputs)


@both
def test_threads_share_a_module(built, form):
    modules = [runtime.load(built[form]) for _ in range(2)]  # of one library: one arena
    batches = [nets.images(2, seed=nets.SEED + i) for i in range(4)]
    expected = [modules[0](x).tobytes() for x in batches]
    wrong = []

    def work(number):
        for _ in range(25):
            try:
                if modules[number % 2](batches[number]).tobytes() != expected[number]:
                    wrong.append(number)
            except Exception as error:  # a thread's exception would be lost
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@both
def test_trace(built, form):
    module = runtime.load(built[form])
    x = nets.images(3)
    plain = module(x)
    entries = module.trace(x)
    assert [entry.index for entry in entries] == [0, 1, 2]
    assert [entry.symbol for entry in entries] == [k.symbol for k in module.manifest.kernels]
    assert [entry.output.shape for entry in entries] == [(3, 8, 8, 16), (3, 1, 1, 16), (3, 10)]
    assert entries[-1].output.tobytes() == plain.tobytes()
    assert entries[0].inputs[0].tobytes() == x.tobytes()
    assert entries[1].inputs[0].tobytes() == entries[0].output.tobytes()
    mean = entries[0].output.astype("float64").mean((1, 2), keepdims=True)
    # 64 float32 additions of numbers below 10.
    np.testing.assert_allclose(entries[1].output, mean, rtol=1e-5, atol=1e-5)
    assert module(x).tobytes() == plain.tobytes()  # the observer is gone


def test_traces_of_both_forms_agree(built):
    x = nets.images(2)
    traces = [runtime.load(built[form]).trace(x) for form in ("c", "vm")]
    for c, vm in zip(*traces, strict=True):
        assert (c.index, c.symbol) == (vm.index, vm.symbol)
        assert c.output.tobytes() == vm.output.tobytes()
        assert all(array is not None for array in vm.inputs)


@both
def test_benchmark(built, form):
    module = runtime.load(built[form])
    seconds = module.benchmark(nets.images(1), warmup=1, repeat=5)
    assert seconds.shape == (5,) and (seconds > 0).all()
    with pytest.raises(InputError, match="repeat 0"):
        module.benchmark(nets.images(1), repeat=0)


@both
def test_damaged_library(copy, form):
    folder = copy(form)
    library = folder / "model.so"
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"model\.so has SHA-256 .* altered"):
        runtime.load(folder)
    library.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtefactError, match=r"model\.so has \d+ bytes, the manifest says"):
        runtime.load(folder)
    library.write_bytes(b"no library at all")
    with pytest.raises(ArtefactError, match="the dynamic loader refuses"):
        runtime.load(folder, check=False)
    library.unlink()
    with pytest.raises(ArtefactError, match="cannot read"):
        runtime.load(folder)


def test_damaged_header_and_archive_count_too(copy):
    folder = copy("c")
    (folder / "model.h").write_text("/* edited */")
    with pytest.raises(ArtefactError, match=r"model\.h"):
        runtime.load(folder)


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine": "aarch64"}, "for aarch64, this machine is"),
        ({"needs": ["avx2", "quantum"]}, "needs the CPU features quantum, which this processor"),
    ],
)
def test_another_machine(copy, form, change, message):
    folder = copy(form)
    edit(folder, **change)
    with pytest.raises(ArtefactError, match=message):
        runtime.load(folder)


@pytest.mark.parametrize(("key", "package"), [("tvm", "apache-tvm"), ("tvm_ffi", "apache-tvm-ffi")])
def test_another_tvm_refuses_only_the_vm_form(copy, key, package):
    c, vm = copy("c"), copy("vm")
    for folder in (c, vm):
        versions = json.loads((folder / "model.json").read_text())["versions"]
        edit(folder, versions={**versions, key: "0.1"})
    runtime.load(c)
    with pytest.raises(ArtefactError, match=rf"with {package} 0\.1, installed is"):
        runtime.load(vm)


def test_manifest_of_the_other_form(copy):
    c, vm = copy("c"), copy("vm")
    edit(c, form="vm")
    with pytest.raises(ArtefactError, match="holds no Relax VM module"):
        runtime.load(c)
    edit(vm, form="c")
    with pytest.raises(ArtefactError, match="has no function model_"):
        runtime.load(vm)


def test_paths_that_are_no_artefact(built, tmp_path):
    with pytest.raises(ArtefactError, match="does not exist"):
        runtime.load(tmp_path / "nothing")
    with pytest.raises(ArtefactError, match=r"cannot read .*model\.json"):
        runtime.load(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"is not named model\.json"):
        runtime.load(tmp_path / "other.json")
    with pytest.raises(ArtefactError, match=r"model\.h is not the library model\.so"):
        runtime.load(built["c"] / "model.h")


@both
def test_compiled_again_to_the_same_folder(tmp_path, form):
    """The dynamic loader knows a library by its path; the new one must be loaded all the same."""

    def other(batch):
        from tvm import relax

        def body(builder, x):
            y = builder.emit(relax.op.mean(x, [1, 2]))
            return builder.emit(relax.op.matmul(y, relax.const(np.eye(16, 10, dtype="float32"))))

        return nets.network(batch, body)

    folder = tmp_path / "net"
    x = nets.images(1)
    old = runtime.load(nets.write_artefact(folder, form))
    before = old(x)
    new = runtime.load(nets.write_artefact(folder, form, make=other))
    # 64 float32 additions of numbers below 10.
    np.testing.assert_allclose(new(x), x.mean((1, 2))[:, :10], rtol=1e-5, atol=1e-6)
    assert old(x).tobytes() == before.tobytes()


IMPORTS = """
import sys
import numpy as np
from tvm_insta import runtime
module = runtime.load(sys.argv[1])
module(np.zeros((1, 8, 8, 16), np.float32))
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"torch", "tvm", "tvm_ffi", "PIL"}))
"""


@both
def test_imports_neither_torch_nor_the_compiler(built, form):
    # torch is blocked: tvm_ffi imports it where it is installed.
    block = "import sys; sys.modules['torch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", (block if form == "vm" else "") + IMPORTS, built[form]],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = set(done.stdout.split()) - ({"torch"} if form == "vm" else set())
    assert loaded == ({"tvm_ffi"} if form == "vm" else set())


def test_aligned_arrays():
    for shape in ((3,), (2, 3, 5), (1, 1, 17)):
        array = aligned_empty(shape, "float32")
        assert array.shape == shape and array.ctypes.data % 64 == 0 and array.flags.c_contiguous
        assert to_aligned(array) is array
    transposed = aligned_empty((4, 5), "float32").T
    assert to_aligned(transposed).flags.c_contiguous
