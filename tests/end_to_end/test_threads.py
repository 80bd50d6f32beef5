"""A whole network on several threads: the same bytes for any number, in either form."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tvm_insta import bench, runtime
from tvm_insta import run as run_command
from tvm_insta.report import compile_summary

SEED = 11


@pytest.mark.parametrize("form", ["vm", "c"])
def test_digits_network(digits, form):
    x = np.random.default_rng(SEED).standard_normal((3, 3, 32, 32)).astype(np.float32)
    expected = None
    for threads in (1, 2, 3, 5, None):
        module = runtime.load(digits / form, threads=threads)
        for _ in range(10):
            got = module(x)
            expected = got if expected is None else expected
            assert got.tobytes() == expected.tobytes(), (threads, SEED)
        traced = module.trace(x)[-1].output
        assert traced.tobytes() == expected.tobytes()


NUMBERS = """
import os, sys
import numpy as np
from tvm_insta import runtime
def tasks():
    return set(os.listdir("/proc/self/task"))
x = np.zeros((1, 3, 32, 32), np.float32)
for threads in (4, 1, 3):
    known = tasks()
    module = runtime.load(sys.argv[1], threads=threads)
    for _ in range(5):
        module(x)
    assert len(tasks() - known) == threads  # the module's own and TVM's workers
    assert os.environ["TVM_NUM_THREADS"] == sys.argv[2]
    del module
known = tasks()
for threads in (3, 4, 1, 3):  # threads that a module has left are the next one's
    runtime.load(sys.argv[1], threads=threads)(x)
assert tasks() == known
"""


@pytest.mark.parametrize("said", ["1", "2"])
def test_number_of_threads_of_the_vm_form(digits, said):
    """A module has its own pool, whatever the environment and other modules say, in every run."""
    environment = {**os.environ, "TVM_NUM_THREADS": said}
    command = [sys.executable, "-c", NUMBERS, str(digits / "vm"), said]
    subprocess.run(command, check=True, env=environment)


def test_errors_pass_through_the_thread_of_the_module(digits):
    module = runtime.load(digits / "vm", threads=2)
    with pytest.raises(runtime.module.InputError, match="shape"):
        module(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(ZeroDivisionError):
        module._backend.call(lambda: 1 // 0)
    assert module(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)


@pytest.mark.parametrize("form", ["vm", "c"])
def test_modules_shared_between_python_threads(digits, form):
    module = runtime.load(digits / form, threads=2)
    images = np.random.default_rng(SEED).standard_normal((4, 1, 3, 32, 32)).astype(np.float32)
    expected = [module(image).tobytes() for image in images]
    wrong = []

    def work(number):
        for _ in range(20):
            if module(images[number]).tobytes() != expected[number]:
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_thread_of_its_own(digits):
    module = runtime.load(digits / "vm", threads=1)  # fork copies no pool, which is why 1
    x = np.zeros((1, 3, 32, 32), np.float32)
    expected = module(x).tobytes()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if module(x).tobytes() == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("form", ["vm", "c"])
def test_command_lines(digits, form, capsys, pytestconfig):
    images = pytestconfig.rootpath / "examples" / "digits" / "test" / "3"
    said = set()
    for threads in ("1", "3"):
        assert run_command.main([str(digits / form), str(images), "--threads", threads]) == 0
        said.add("\n".join(capsys.readouterr().out.splitlines()[:-1]))  # but the time
    assert len(said) == 1
    argv = [str(digits / form), "--threads", "2", "--repeat", "3"]
    assert bench.main(argv) == 0 and "2 threads" in capsys.readouterr().out
    assert run_command.main([str(digits / form), str(images), "--threads", "0"]) == 2
    assert "threads=0" in capsys.readouterr().err


def test_memory_of_the_plain_c_form(digits, capsys):
    """The arena is as small as what is alive at one time, and the compiler says what is in it."""
    manifest = runtime.load(digits / "c").manifest
    memory = manifest.memory
    assert memory.weights + memory.arena == manifest.working_set
    assert memory.kernel in {kernel.symbol for kernel in manifest.kernels}
    ratio = memory.arena / memory.alive
    with capsys.disabled():
        print(f"\narena {memory.arena}, largest set alive {memory.alive}: ratio {ratio}")
    # First fit by size is not always optimal; on this network it is.
    assert 1.0 <= ratio <= 1.02
    # Two images of 32x32x16 float32 where a residual is added, if nothing were written in place.
    assert memory.arena < 2 * 32 * 32 * 16 * 4
    lines = list(compile_summary(digits / "c", manifest))
    assert any(line.startswith("  weights ") and memory.kernel in line for line in lines)
    # All of one state: this processor either has a packaged log or has none.
    assert any(line in ("schedules: 22 tuned", "schedules: 22 default") for line in lines)
    assert runtime.load(digits / "vm").manifest.memory is None
