"""Use one artefact hard: python soak.py FOLDER WHAT COUNT; prints "done" at the end.

Every result must have the bytes of the first, in every thread and every child; memory, threads and
mappings must be flat from the first tenth of the work on.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from tvm_insta import runtime

SEED = 5
SECONDS = 120  # a child that takes longer hangs
SETTLE_SECONDS = 30  # TVM's workers look for work for a while before they end
RSS_BYTES = 8 << 20  # what Python's and the C library's allocators may keep
X = np.random.default_rng(SEED).standard_normal((1, 1001, 8)).astype("float32")


def tasks() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def mappings() -> int:
    """Those of libraries: the C library maps stacks and heaps as it likes."""
    return Path("/proc/self/maps").read_text().count("model.so")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Flat:
    """Compares what the process holds with what it held when the work was under way."""

    def __init__(self) -> None:
        self.before, self.rss = self.counts(), resident()

    @staticmethod
    def counts() -> tuple[int, int, int]:
        gc.collect()
        return tasks(), mappings(), descriptors()

    def check(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while any(a > b for a, b in zip(self.counts(), self.before, strict=True)):
            assert time.monotonic() < deadline, f"{self.before} became {self.counts()}"
            time.sleep(0.2)
        grown = resident() - self.rss
        assert grown < RSS_BYTES, f"RSS grew by {grown / 1e6:.1f} MB"
        print(
            f"tasks, mappings, descriptors {self.before} -> {self.counts()}, "
            f"RSS {grown / 1e6:+.1f} MB"
        )


def calls(folder: Path, count: int) -> None:
    module = runtime.load(folder, threads=2)
    expected = module(X).tobytes()
    flat = None
    for number in range(count):
        flat = flat or (Flat() if number >= count // 10 else None)
        assert module(X).tobytes() == expected, number
    flat.check()


def loads(folder: Path, count: int) -> None:
    expected = runtime.load(folder)(X).tobytes()
    flat = None
    for number in range(count):
        flat = flat or (Flat() if number >= count // 10 else None)
        module = runtime.load(folder, threads=2)
        assert module(X).tobytes() == expected, number
    flat.check()


def reloads(folder: Path, count: int) -> None:
    """The folder has another library each time: bytes behind the end change its hash only."""
    from tvm_insta.runtime import manifest as manifests

    manifest = manifests.read(folder / manifests.FILE_NAME)
    original = (folder / manifest.library).read_bytes()
    expected = runtime.load(folder)(X).tobytes()
    flat = None
    for number in range(count):
        flat = flat or (Flat() if number >= count // 10 else None)
        (folder / manifest.library).write_bytes(original + str(number).encode())
        files = manifests.describe_files(folder, manifest.files)
        manifests.write(folder, manifests.dataclasses.replace(manifest, files=files))
        module = runtime.load(folder, threads=2)
        assert module(X).tobytes() == expected, number
    flat.check()


def threads(folder: Path, count: int) -> None:
    """Eight threads that load for themselves and run what they share."""
    shared = runtime.load(folder)
    expected = shared(X).tobytes()
    wrong = []

    def work(own: runtime.Module, start: threading.Barrier) -> None:
        start.wait()
        shared(X)
        start.wait()  # all eight are here, each with its own pool
        for _ in range(count):
            try:
                good = own(X).tobytes() == shared(X).tobytes() == expected
            except Exception as error:  # a thread's exception would be lost
                wrong.append(error)
            else:
                wrong.extend([] if good else ["other bytes"])

    def together() -> None:
        start = threading.Barrier(8)
        modules = [runtime.load(folder, threads=1 + number % 3) for number in range(8)]
        workers = [threading.Thread(target=work, args=(each, start)) for each in modules]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    together()
    flat = Flat()
    together()
    together()
    assert not wrong, wrong[:3]
    flat.check()


def forks(folder: Path, count: int) -> None:
    """Children of a process that has run, and of one in which another thread runs all the time."""
    module, sized = runtime.load(folder), runtime.load(folder, threads=2)
    expected = module(X).tobytes()
    assert sized(X).tobytes() == expected

    def fork(number: int) -> None:
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            good = module(X).tobytes() == sized(X).tobytes() == expected
            good = good and runtime.load(folder, threads=3)(X).tobytes() == expected
            if number % 2:
                sys.exit(0 if good else 1)  # as gunicorn's workers end
            os._exit(0 if good else 1)  # as multiprocessing's end
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, number

    for number in range(count):
        fork(number)
    stop, has_run = threading.Event(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            assert module(X).tobytes() == sized(X).tobytes() == expected
            has_run.set()

    other = threading.Thread(target=run)
    other.start()
    assert has_run.wait(SECONDS)  # its pool of workers belongs to what was there before
    flat = Flat()
    try:
        for number in range(count):
            fork(number)
        flat.check()
    finally:
        stop.set()
        other.join()
    assert module(X).tobytes() == sized(X).tobytes() == expected


MODULE: runtime.Module | None = None


def in_a_pool(number: int) -> bytes:
    return MODULE(X).tobytes()


def begin(folder: Path) -> None:
    global MODULE  # noqa: PLW0603 (a pool's children have nothing else to keep it in)
    MODULE = runtime.load(folder, threads=2)


def pools(folder: Path, count: int) -> None:
    """multiprocessing: the children take the parent's module (fork), or load it (spawn)."""
    begin(folder)
    expected = MODULE(X).tobytes()
    for way in ("fork", "spawn"):
        context = multiprocessing.get_context(way)
        start = () if way == "fork" else (folder,)
        with ProcessPoolExecutor(2, context, begin if start else None, start) as pool:
            for found in pool.map(in_a_pool, range(count), timeout=SECONDS):
                assert found == expected, way


class Images:
    """A data set whose items are the network's outputs."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, _: int):
        return MODULE(X)


def loader(folder: Path, count: int) -> None:
    """Workers of PyTorch's DataLoader, which fork from a process that has run."""
    from torch.utils.data import DataLoader

    begin(folder)
    expected = MODULE(X).tobytes()
    for _ in range(count):
        for batch in DataLoader(Images(), batch_size=1, num_workers=2, timeout=SECONDS):
            assert batch.numpy().tobytes() == expected


if __name__ == "__main__":
    os.environ["TVM_NUM_THREADS"] = "2"  # before any thread has a pool
    globals()[sys.argv[2]](Path(sys.argv[1]), int(sys.argv[3]))
    print("done")
