"""examples/rpc/server.c, the server for boards without Python: on this machine and under QEMU."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

import pytest
from tvm.rpc import base, client

from tests.tuning import tiny
from tests.tuning.test_tuning_rpc import pytestmark as needs_tracker
from tvm_insta.codegen import bundle
from tvm_insta.errors import TuneError
from tvm_insta.target import parse
from tvm_insta.tuning.log import TRIALS
from tvm_insta.tuning.remote import count_devices
from tvm_insta.tuning.rpc import RpcRunner

RPC = Path(__file__).parents[2] / "examples" / "rpc"
KEY = "board"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wcast-align=strict", "-Werror")
LIBRARIES = "TVM_INSTA_AARCH64_LIB"


def make(compiler, out, folders, *flags):
    """Compile the server against the libraries in `folders`; returns the program."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    headers = {bundle._header(name).parents[depth] for name, depth in HEADERS.items()}
    command = [compiler, *FLAGS, *flags, str(RPC / "server.c"), "-o", str(out)]
    for folder in headers:
        command += ["-isystem", str(folder)]
    for folder in folders:
        command += ["-L", str(folder), f"-Wl,-rpath,{folder}"]
    needed = ["-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-Wl,--allow-shlib-undefined"]
    subprocess.run([*command, *needed], check=True)
    return str(out)


HEADERS = {"tvm/ffi/c_api.h": 2, "dlpack/dlpack.h": 1}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The server for this machine."""
    found = [bundle._installed(package, name).parent for package, name in bundle._RUNTIME.items()]
    return make("gcc", tmp_path_factory.mktemp("server") / "server", found)


class Tracker(threading.Thread):
    """A tracker that notes what the only server offers, and lends nothing.

    Attributes:
        offers: (port, match key) as they come.
        pending: whether the last key counts as not lent yet.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.offers, self.pending = SimpleQueue(), True
        self.start()

    def run(self):
        while True:
            self.connection, _ = self.listener.accept()
            with suppress(OSError):
                magic = base.recvall(self.connection, 4)
                assert struct.unpack("<i", magic) == (base.RPC_TRACKER_MAGIC,)
                self.connection.sendall(magic)
                self.answer()

    def answer(self):
        match = None
        while True:
            code, *message = base.recvjson(self.connection)
            reply = base.TrackerCode.SUCCESS
            if code == base.TrackerCode.UPDATE_INFO:
                (about,) = message
                assert about["key"] == f"server:{KEY}" and about["addr"][0] == "127.0.0.1"
            elif code == base.TrackerCode.GET_PENDING_MATCHKEYS:
                reply = [match, "other"] if self.pending else ["other"]
            else:
                key, (port, match), host = message
                assert (code, key, host) == (base.TrackerCode.PUT, KEY, "127.0.0.1")
                self.offers.put((port, match))
            base.sendjson(self.connection, reply)

    def drop(self):
        """Let the connection go, as a tracker that is started anew."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


@contextmanager
def running(*command):
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_nobody_has_to_read_what_it_prints(program, tmp_path, monkeypatch):
    """Its standard output is a pipe that is full."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tracker = Tracker()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    command = [program, "--tracker", tracker.address, "--key", KEY]
    started = subprocess.Popen(command, stdout=writer)
    try:
        port, match = tracker.offers.get(timeout=60)
        session = client.connect("127.0.0.1", port, match, 60)
        session.upload(bytearray(b"some bytes"), target="file.bin")
        assert session.download("file.bin") == b"some bytes"
    finally:
        started.kill()
        started.wait()
        os.close(reader)
        os.close(writer)


def test_sessions_are_guarded(program, tmp_path, monkeypatch):
    """Of files, keys, silence, time, and a tracker that goes away."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tracker = Tracker()
    command = [program, "--tracker", tracker.address, "--key", KEY, "--host", "127.0.0.1"]
    with running(*command) as started:
        port, match = tracker.offers.get(timeout=60)
        assert f"listening on 127.0.0.1:{port}, key {KEY}" in started.stdout.readline()
        # Neither a client with another key nor one that says nothing takes the place.
        with pytest.raises(Exception, match="cannot find server that matches key"):
            client.connect("127.0.0.1", port, f"{KEY}:other", 10)
        socket.create_connection(("127.0.0.1", port)).close()
        session = client.connect("127.0.0.1", port, match, 60)
        session.upload(bytearray(b"some bytes"), target="file.bin")
        assert session.download("file.bin") == b"some bytes"
        for name in ("../file.bin", "/etc/hostname", ".hidden", "/"):
            with pytest.raises(Exception, match="plain file names only"):
                session.upload(bytearray(b"x"), target=name)
        assert len(list(tmp_path.iterdir())) == 1
        del session
        _, match = tracker.offers.get(timeout=60)
        assert list(tmp_path.iterdir()) == []
        # A session that takes too long ends, and the server goes on.
        session = client.connect("127.0.0.1", port, match, 1)
        _, match = tracker.offers.get(timeout=60)
        with pytest.raises(Exception, match="the session took over 1 s"):
            session.upload(bytearray(b"x"), target="late.bin")
        assert list(tmp_path.iterdir()) == []
        # A key that somebody was lent and never showed is replaced.
        tracker.pending = False
        assert tracker.offers.get(timeout=60)[1] != match
        tracker.pending = True
        tracker.drop()
        again, match = tracker.offers.get(timeout=60)
        assert again == port
        session = client.connect("127.0.0.1", port, match, 60)
        session.upload(bytearray(b"again"), target="file.bin")
        assert session.download("file.bin") == b"again"


def test_usage(program):
    for wrong in ([], ["--key", KEY], ["--tracker", "here", "--key", KEY], ["--key"]):
        done = subprocess.run([program, *wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith("usage: ")
    options = ["--tracker", "127.0.0.1:1", "--key", 'a"b']
    assert subprocess.run([program, *options], capture_output=True, check=False).returncode == 1


def swept(command, target, folder):
    """Tune the tiny network on a farm of one such server; the trials as the log has them."""
    farm = [sys.executable, str(RPC / "farm.py"), "--key", KEY, "--servers", "1"]
    with running(*farm, "--program", command) as started:
        (_, tracker, *_), (_, server, *_) = (started.stdout.readline().split() for _ in range(2))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not registered(tracker):
            time.sleep(0.1)
        runner = RpcRunner(target, tracker, KEY, run_timeout=60.0)
        try:
            chosen = tiny.tasks(target)
            tiny.sweep(folder, runner, target=target, chosen=chosen, trials=5, search="random")
        finally:
            runner.close()
            started.terminate()
            started.wait(timeout=30)
    text = (tiny.folder(folder, target) / TRIALS).read_text(encoding="utf-8")
    trials = [json.loads(line) for line in text.splitlines()]
    assert {(trial["device"], trial["error"]) for trial in trials} == {(server, "")}
    assert len({trial["workload"] for trial in trials}) == 2
    assert len([trial for trial in trials if not trial["final"]]) == 5
    return trials


def registered(tracker):
    try:
        return count_devices(tracker, KEY)
    except TuneError:
        return 0


@pytest.mark.slow
@needs_tracker
def test_a_sweep_on_this_machine(program, tmp_path):
    assert all(t["run_secs"][0] < 1e-2 for t in swept(program, tiny.NATIVE, tmp_path))


@needs_tracker
@pytest.mark.qemu
def test_a_sweep_on_an_emulated_board(tmp_path):
    """A real process for aarch64, under QEMU: its times are no board's, its bytes are checked."""
    libraries = Path(os.environ.get(LIBRARIES, ""))
    if not (libraries / "libtvm_runtime.so").is_file() or not os.environ.get(LIBRARIES):
        pytest.skip(
            f"needs ${LIBRARIES}, a folder with libtvm_runtime.so and libtvm_ffi.so for aarch64: "
            "the lib/ of a bundle (tvm_insta.compile --target rpi4 --bundle)"
        )
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-aarch64")
    program = make("aarch64-linux-gnu-gcc", tmp_path / "server", [libraries.resolve()])
    command = f"qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu cortex-a72 {program}"
    swept(command, parse("rpi4"), tmp_path / "logs")
