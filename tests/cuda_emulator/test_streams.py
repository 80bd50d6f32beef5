"""Streams and graphs of the emulated device: what is captured runs when launched."""

from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest

from tests.cuda_emulator import harness
from tests.cuda_emulator.harness import Buffer, LaunchConfig, assembly, require_compiler
from tvm_insta import cuda_emulator
from tvm_insta.cuda_emulator import build

GLOBAL, THREAD, RELAXED = range(3)  # cudaStreamCaptureMode
BLOCKING, NON_BLOCKING = 0, 1
WITHIN = 3  # cudaMemcpyDeviceToDevice
UNSUPPORTED, INVALIDATED, UNMATCHED, IMPLICIT, WRONG_THREAD = 900, 901, 903, 906, 908
REGISTERS = ".reg .b64 %to; .reg .b32 %t, %v;"
# out[i] = 3 * out[i] + i
BODY = (
    "mov.u32 %t, %tid.x; mul.wide.u32 %to, %t, 4; add.s64 %to, %out, %to;"
    "ld.global.u32 %v, [%to]; mad.lo.u32 %v, %v, 3, %t; st.global.u32 [%to], %v;"
)
INDEX = np.arange(32, dtype=np.uint32)


class Card:
    """What a program has of CUDA's run time, and one buffer with a kernel for it."""

    def __init__(self):
        require_compiler()
        self.device = cuda_emulator.start()
        self.device.clear_error()
        self.rt = ctypes.CDLL(build.RUNTIME)
        module, failed = harness._module(assembly(BODY, REGISTERS))
        assert not failed, self.device.error
        self.function = ctypes.c_void_p()
        driver = self.device.driver
        assert not driver.cuModuleGetFunction(ctypes.byref(self.function), module, b"k")
        self.buffer = Buffer(self.device, INDEX)

    def stream(self, flags=NON_BLOCKING):
        handle = ctypes.c_void_p()
        assert not self.rt.cudaStreamCreateWithFlags(ctypes.byref(handle), flags)
        return handle

    def launch(self, stream=None, threads=32):
        address = ctypes.c_uint64(self.buffer.address)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(address))
        handle = stream if stream is None else stream.value
        config = LaunchConfig(1, 1, 1, threads, 1, 1, 0, handle, None, 0)
        return self.device.driver.cuLaunchKernelEx(
            ctypes.byref(config), self.function, pointers, None
        )

    def end(self, stream):
        graph = ctypes.c_void_p()
        code = self.rt.cudaStreamEndCapture(stream, ctypes.byref(graph))
        return code, graph

    def executable(self, graph):
        made = ctypes.c_void_p()
        assert not self.rt.cudaGraphInstantiate(ctypes.byref(made), graph, ctypes.c_ulonglong(0))
        return made


@pytest.fixture
def card():
    made = Card()
    yield made
    made.buffer.close()


def after(times):
    """What the kernel makes of INDEX, called `times` times."""
    value = INDEX.copy()
    for _ in range(times):
        value = value * 3 + INDEX
    return value


@pytest.mark.parametrize("mode", [GLOBAL, THREAD, RELAXED])
@pytest.mark.parametrize("flags", [BLOCKING, NON_BLOCKING])
def test_captured_kernels_run_when_the_graph_is_launched(card, mode, flags):
    stream, count = card.stream(flags), 3
    launches, graphs = card.device.launches, card.device.graph_launches
    assert not card.rt.cudaStreamBeginCapture(stream, mode)
    for _ in range(count):
        assert not card.launch(stream)
    code, graph = card.end(stream)
    assert not code
    np.testing.assert_array_equal(card.buffer.array, INDEX)  # nothing was executed
    made = card.executable(graph)
    assert not card.rt.cudaGraphDestroy(graph)  # which an executable graph outlives
    card.device.take_names()
    for times in (1, 2):
        assert not card.rt.cudaGraphLaunch(made, None)
        np.testing.assert_array_equal(card.buffer.array, after(count * times))
    assert card.device.take_names() == ["k"] * 2 * count
    assert card.device.launches == launches  # the program launched no kernel
    assert card.device.graph_launches == graphs + 2
    assert not card.launch(stream)  # the stream executes again
    np.testing.assert_array_equal(card.buffer.array, after(2 * count + 1))


def test_copies_within_the_device_are_captured(card):
    other, stream = Buffer(card.device, INDEX + 7), card.stream()
    try:
        assert not card.rt.cudaStreamBeginCapture(stream, GLOBAL)
        to, source = ctypes.c_void_p(card.buffer.address), ctypes.c_void_p(other.address)
        size = ctypes.c_size_t(INDEX.nbytes)
        assert not card.rt.cudaMemcpyAsync(to, source, size, WITHIN, stream)
        code, graph = card.end(stream)
        assert not code
        np.testing.assert_array_equal(card.buffer.array, INDEX)
        made = card.executable(graph)
        other.array[...] = INDEX * 5  # the graph has the address, not the bytes
        assert not card.rt.cudaGraphLaunch(made, None)
        np.testing.assert_array_equal(card.buffer.array, INDEX * 5)
    finally:
        other.close()
    assert card.rt.cudaGraphLaunch(made, None)  # its memory is gone
    assert "no device memory any more" in card.device.error


def test_a_graph_whose_memory_is_gone_is_out_of_bounds(card):
    stream = card.stream()
    assert not card.rt.cudaStreamBeginCapture(stream, GLOBAL)
    assert not card.launch(stream)
    _, graph = card.end(stream)
    made = card.executable(graph)
    card.buffer.close()
    assert card.rt.cudaGraphLaunch(made, None)
    assert "global memory out of bounds" in card.device.error


@pytest.mark.parametrize("mode", [GLOBAL, THREAD, RELAXED])
def test_allocations_while_a_stream_is_captured(card, mode):
    stream, place = card.stream(), ctypes.c_void_p()
    assert not card.rt.cudaStreamBeginCapture(stream, mode)
    code = card.rt.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(4))
    ended, graph = card.end(stream)
    if mode == RELAXED:
        assert (code, ended) == (0, 0)
        assert not card.rt.cudaFree(place)
    else:
        assert (code, ended, graph.value) == (UNSUPPORTED, INVALIDATED, None)
        assert "while a stream is being captured" in card.device.error


def test_a_capture_does_not_wait(card):
    """A stream that is captured executes nothing, so nobody can wait for it."""
    stream = card.stream()
    assert not card.rt.cudaStreamBeginCapture(stream, RELAXED)
    assert card.rt.cudaStreamSynchronize(stream) == UNSUPPORTED
    assert card.launch(stream) == INVALIDATED
    assert card.end(stream)[0] == INVALIDATED
    assert not card.launch(stream)


@pytest.mark.parametrize("flags", [BLOCKING, NON_BLOCKING])
def test_the_legacy_stream_beside_a_capture(card, flags):
    stream = card.stream(flags)
    assert not card.rt.cudaStreamBeginCapture(stream, RELAXED)
    code = card.launch()
    ended, _ = card.end(stream)
    expected = (IMPLICIT, INVALIDATED) if flags == BLOCKING else (0, 0)
    assert (code, ended) == expected


def test_ends_without_a_beginning(card):
    stream = card.stream()
    assert card.end(stream)[0] == UNMATCHED
    assert card.rt.cudaStreamBeginCapture(None, RELAXED) == UNSUPPORTED
    assert not card.rt.cudaStreamBeginCapture(stream, GLOBAL)
    assert card.rt.cudaStreamBeginCapture(stream, GLOBAL) == UNSUPPORTED
    found = []
    thread = threading.Thread(target=lambda: found.append(card.end(stream)[0]))
    thread.start()
    thread.join()
    assert found == [WRONG_THREAD]
    assert card.end(stream)[0] == 0


def test_limits_hold_while_capturing(card):
    stream = card.stream()
    assert not card.rt.cudaStreamBeginCapture(stream, GLOBAL)
    assert card.launch(stream, threads=1025)
    assert "at most 1024" in card.device.error
    assert card.end(stream)[0] == 0


def test_a_stream_that_does_not_exist(card):
    stream = card.stream()
    assert not card.rt.cudaStreamDestroy(stream)
    assert card.launch(stream)
    assert "does not exist" in card.device.error
