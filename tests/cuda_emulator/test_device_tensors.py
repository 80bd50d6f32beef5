"""Tensors on the device through an artefact, and its kernels as CUDA graphs."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest
import tvm

import tvm_insta
from benchmarks.cuda import engines
from tests.cuda_emulator.nets import images
from tvm_insta import cuda_emulator
from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime import cuda_graph
from tvm_insta.runtime.device_tensors import on_device

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def cpu(small):
    return tvm_insta.load(small[4] / "cpu")


@pytest.fixture(scope="module")
def eager(small):
    return tvm_insta.load(small[4] / "cuda", device="emulated")


@pytest.fixture
def graphed(small):
    return tvm_insta.load(small[4] / "cuda", device="emulated", cuda_graph=True)


@pytest.fixture
def device():
    return cuda_emulator.start("sm_90")


def on_card(array):
    return tvm.runtime.tensor(array, tvm.cuda(0))


def test_tensors_on_the_device_stay_there(cpu, eager, device):
    given = images(3, 9)
    tensor = on_card(given)
    before = device.host_copies
    result = eager(tensor)
    assert device.host_copies == before  # neither images nor logits went through the host
    assert result.__dlpack_device__() == (2, 0)
    assert result.numpy().tobytes() == cpu(given).tobytes()
    again = eager(on_card(given * 0))
    assert result.numpy().tobytes() == cpu(given).tobytes()  # memory of its own
    assert again.numpy().tobytes() == cpu(given * 0).tobytes()
    assert eager(given).tobytes() == cpu(given).tobytes()  # numpy still goes


class Producer:
    """A library's tensor, which is asked for with the stream of whom it is for."""

    def __init__(self, tensor):
        self.tensor, self.streams = tensor, []

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def test_a_producer_is_told_the_stream(cpu, eager):
    given = images(1, 9)
    producer = Producer(on_card(given))
    assert eager(producer).numpy().tobytes() == cpu(given).tobytes()
    assert producer.streams == [1]  # DLPack's number of the legacy stream


class Elsewhere(Producer):
    def __dlpack_device__(self):
        return 2, 1


class Strides(Producer):
    """Says that it cannot be exported, as a library does of what it cannot describe."""

    def __init__(self, array):
        super().__init__(on_card(array))

    def __dlpack__(self, **_):
        raise BufferError("not in C order")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: on_card(x.astype(np.float64)), "has dtype float64, the model takes float32"),
        (lambda x: on_card(x[0]), "add the batch dimension"),
        (lambda x: on_card(np.concatenate([x] * 5)), "a batch of 5, the model takes 1 to 4"),
        (lambda x: Elsewhere(on_card(x)), "lies on card 1, the model runs on card 0"),
        (Strides, "a dense tensor in C order"),
        (lambda x: Producer(shifted(x)), "aligned to 64 bytes"),
    ],
)
def test_refusals(change, message, eager):
    with pytest.raises(InputError, match=re.escape(message)):
        eager(change(images(1, 9)))


def shifted(x):
    """The images at 4 bytes behind an aligned address."""
    room = on_card(np.zeros(x.size + 1, np.float32))
    return room._create_view(x.shape, "float32", relative_byte_offset=4)


def test_inputs_in_two_places():
    here, there = images(1, 9), on_card(images(1, 9))
    assert not on_device([here, here]) and on_device([there, there]) and not on_device([])
    with pytest.raises(InputError, match="some on the host"):
        on_device([here, there])


def test_a_graph_gives_the_same_bytes_in_one_launch(cpu, graphed, device):
    kernels = len(graphed.manifest.kernels)
    for batch in (1, 3, 1, 3, 3):
        given = images(batch, 9) * (1 + batch)
        device.take_names()
        launches, graphs = device.launches, device.graph_launches
        assert graphed(given).tobytes() == cpu(given).tobytes()
        found = device.launches - launches, device.graph_launches - graphs
        assert found in ((kernels, 0), (0, 1))
        assert len(device.take_names()) == kernels
    assert found == (0, 1)


def test_a_graph_reads_and_writes_tensors_on_the_device(cpu, graphed):
    first, second = images(2, 9), images(2, 9)[::-1].copy()
    results = [graphed(on_card(x)) for x in (first, second, first)]
    for x, result in zip((first, second, first), results, strict=True):
        assert result.numpy().tobytes() == cpu(x).tobytes()  # each in memory of its own


def test_a_graph_outlives_other_runs(cpu, graphed):
    """Other batches and traces use the same pool of memory, and must not be given the graph's."""
    given = {batch: images(batch, 9) for batch in (1, 2, 3, 4)}
    want = {batch: cpu(x).tobytes() for batch, x in given.items()}
    for batch in (1, 2, 3, 4, 1, 2, 3, 4):
        assert graphed(given[batch]).tobytes() == want[batch]
        assert len(graphed.trace(given[1])) == len(graphed.manifest.kernels)
    assert graphed.benchmark(given[2], warmup=0, repeat=2).shape == (2,)
    assert graphed(given[2]).tobytes() == want[2]


def test_old_graphs_make_room(cpu, graphed, device, monkeypatch):
    monkeypatch.setattr(cuda_graph, "MOST_GRAPHS", 2)
    for batch in (1, 2, 3):
        graphed(images(batch, 9))
    graphs = device.graph_launches
    for batch in (3, 2, 1):  # the last, then the one before, then one that is captured anew
        assert graphed(images(batch, 9)).tobytes() == cpu(images(batch, 9)).tobytes()
    assert device.graph_launches - graphs == 2


def test_a_failure_in_a_graph_is_said(graphed, device, monkeypatch):
    graphed(images(1, 9))
    (graph,) = graphed._backend._graphs._graphs.values()
    device.driver.emu_remove_memory(ctypes.c_void_p(graph.inputs[0].data_ptr()))
    with pytest.raises(ArtefactError, match=r"the emulated device says: .*out of bounds"):
        graphed._backend._kernels(graph.launch)


def test_no_graph_for_a_cpu(small):
    with pytest.raises(InputError, match="the artefact is for a CPU: leave it away"):
        tvm_insta.load(small[4] / "cpu", cuda_graph=True)


@pytest.mark.parametrize("name", [name for name, each in engines.ENGINES.items() if each.ours])
def test_our_engines_on_the_emulated_device(name, small, monkeypatch):
    monkeypatch.setattr(engines, "images", lambda task: images(task.batch, 9))
    task = engines.Task(name, "resnet20", 3, str(small[4] / "cuda"), device="emulated")
    want = tvm_insta.load(small[4] / "cpu")(images(3, 9))
    run = engines.ENGINES[name].start(task)
    for _ in range(2):
        assert run().numpy().tobytes() == want.tobytes()
