"""Threads of the plain-C form: the same bits for any number, and what may go wrong around them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import artefact_nets as nets
from tests.support import thread_nets
from tvm_insta import runtime
from tvm_insta.codegen import c_form
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.raw import STACK_BYTES
from tvm_insta.errors import InputError
from tvm_insta.target import parse

OK, BUSY, THREADS, POOL = 0, 6, 8, 9
COUNTS = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    return nets.write_artefact(folder, "c", make=thread_nets.conv_in_parts)


def setter(folder: Path):
    return ctypes.CDLL(str(folder / "model.so")).model_set_threads


def test_a_kernel_is_cut_at_its_parallel_loops(tmp_path):
    form = c_form(thread_nets.conv_in_parts(1), parse(nets.NATIVE), tmp_path)
    kernel = form.plan.kernels["fused_conv2d_add_relu_add1"]
    assert [part.extent for part in kernel.parts] == [10, 8, None]
    assert 10 * 10 * thread_nets.CHANNELS * 4 in kernel.shared  # the padded image
    assert kernel.own == (8 * thread_nets.CHANNELS * 16 * 4,) and kernel.own[0] > STACK_BYTES
    assert form.plan.thread_bytes == kernel.own[0]
    assert f"MODEL_THREAD_BYTES {kernel.own[0]}u" in (tmp_path / "model.h").read_text()


@pytest.mark.parametrize("batch", [1, 4])
def test_scratch_memory_is_not_shared_between_threads(parts, tmp_path, batch):
    x = nets.images(batch, thread_nets.CHANNELS)
    expected = None
    vm = nets.write_artefact(tmp_path, "vm", make=thread_nets.conv_in_parts)
    for folder in (parts, vm):
        for count in COUNTS:
            module = runtime.load(folder, threads=count)
            for _ in range(20):
                got = module(x)
                expected = got if expected is None else expected
                assert got.tobytes() == expected.tobytes(), (folder, count)
    # 432 products of size 1, in sums of 16: rounding stays below 2e-5 of the result.
    reference = nets.conv_net_numpy(x, thread_nets.CHANNELS)
    np.testing.assert_allclose(expected, reference, rtol=2e-4)


@pytest.mark.parametrize("extent", [2, 3, 7, 64, 1001])
def test_every_iteration_runs_once(tmp_path, extent):
    """Loops follow each other closely: a worker that is late must not run a later loop twice."""
    module = runtime.load(
        nets.write_artefact(tmp_path, "c", make=thread_nets.many_loops(extent, 30))
    )
    x = np.arange(extent * 8, dtype=np.float32).reshape(1, extent, 8)
    for count in (*COUNTS, 1):
        assert setter(tmp_path)(count) == OK
        for _ in range(200):
            np.testing.assert_array_equal(module(x), x + 30)


def test_impossible_numbers(parts):
    for count in (0, -1):
        with pytest.raises(InputError, match=rf"got threads={count}, but at least 1"):
            runtime.load(parts, threads=count)
    with pytest.raises(InputError, match=r"got threads=257: .*above MODEL_MAX_THREADS.* 256"):
        runtime.load(parts, threads=257)
    set_threads = setter(parts)
    assert [set_threads(count) for count in (0, -(2**31), 257, 2**31 - 1)] == [THREADS] * 4


def test_not_within_a_run(parts):
    module = runtime.load(parts)
    library = module._backend.library
    codes = []
    observer = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
        lambda _event, _user: codes.append(library.model_set_threads(2))
    )
    library.model_set_observer.argtypes = None
    library.model_set_observer(observer, None)
    try:
        module(nets.images(1, thread_nets.CHANNELS))
    finally:
        library.model_set_observer(None, None)
    assert set(codes) == {BUSY}


def child(parts: Path, text: str) -> None:
    """Run a Python program in a process of its own; it has module, x, expected and set_threads."""
    program = f"""
import ctypes, os, resource, sys, _ctypes
import numpy as np
from tvm_insta import runtime
from pathlib import Path
def threads_now():
    return len(list(Path("/proc/self/task").iterdir()))
folder = Path({str(parts)!r})
module = runtime.load(folder)
x = np.random.default_rng(7).standard_normal((2, 8, 8, {thread_nets.CHANNELS})).astype("float32")
expected = module(x).tobytes()
library = module._backend.library
set_threads = library.model_set_threads
{text}
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_number_of_threads(parts):
    child(
        parts,
        """
before = threads_now()
for count in (4, 2, 1, 3, 3, 1):
    runtime.load(folder, threads=count)
    assert threads_now() == before + count - 1
    assert set_threads(0) == 8 and threads_now() == before + count - 1
""",
    )


def test_a_forked_child_uses_one_thread_until_it_asks_for_more(parts):
    child(
        parts,
        """
assert set_threads(4) == 0 and module(x).tobytes() == expected
for end in (os._exit, sys.exit):
    pid = os.fork()
    if pid == 0:
        assert threads_now() == 1
        assert module(x).tobytes() == expected
        assert set_threads(3) == 0 and threads_now() == 3
        assert module(x).tobytes() == expected
        end(17)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
assert threads_now() >= 4 and module(x).tobytes() == expected
""",
    )


def test_closing_the_library_ends_its_threads(parts):
    child(
        parts,
        """
del module, library, set_threads  # of the file's one library, which is closed with them
import gc
gc.collect()  # library.model_set_threads is an attribute: a cycle
before = threads_now()
for _ in range(20):
    again = runtime.load(folder, threads=3)
    assert again(x).tobytes() == expected
    assert threads_now() == before + 2
    assert "model.so" in Path("/proc/self/maps").read_text()
    del again
    gc.collect()  # of ctypes' own cycles
    assert "model.so" not in Path("/proc/self/maps").read_text()
    assert threads_now() == before
    third = ctypes.CDLL(str(folder / "model.so"))  # without this package
    assert third.model_set_threads(3) == 0 and threads_now() == before + 2
    _ctypes.dlclose(third._handle)
    assert threads_now() == before
""",
    )


def test_without_memory_for_threads_one_thread_is_used(parts):
    child(
        parts,
        """
before = threads_now()
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
assert set_threads(256) == 9
assert threads_now() == before and module(x).tobytes() == expected
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert set_threads(3) == 0 and threads_now() == before + 2
assert module(x).tobytes() == expected
""",
    )


def test_workers_compute_in_the_caller_s_float_mode(tmp_path):
    """Flush-to-zero, which PyTorch can set, holds in every thread or in none.

    The loop takes some milliseconds, so that the worker is awake before it is over.
    """
    torch = pytest.importorskip("torch")
    make = thread_nets.many_loops(500_000, 1, thread_nets.halve)
    module = runtime.load(nets.write_artefact(tmp_path, "c", make=make), threads=2)
    x = np.full((1, 500_000, 8), 1.5e-38, np.float32)  # half of it is no normal number
    assert torch.set_flush_denormal(True)
    try:
        flushed = [module(x).tobytes() for _ in range(20)]
    finally:
        torch.set_flush_denormal(False)
    # Compared in the ordinary mode: in the other, a subnormal number equals 0.
    assert all(each == bytes(x.nbytes) for each in flushed)
    for _ in range(20):
        assert (module(x) > 0).all()


def test_a_program_without_threads_needs_none(parts, tmp_path):
    source = tmp_path / "use.c"
    source.write_text('#include "model.h"\nint main(void) { return model_init(0); }\n')
    command = ["gcc", "-std=c11", "-I", parts, source, parts / "model.a", "-lm", "-o"]
    subprocess.run([*command, tmp_path / "one"], check=True)
    names = ElfFile(tmp_path / "one").visible()
    assert "model_init" in names and "model_set_threads" not in names
    assert not [name for name in names if name.startswith("pthread_")]
    source.write_text('#include "model.h"\nint main(void) { return model_set_threads(2); }\n')
    subprocess.run([*command, tmp_path / "two", "-pthread"], check=True)
    assert subprocess.run([tmp_path / "two"], check=False, timeout=60).returncode == 0
