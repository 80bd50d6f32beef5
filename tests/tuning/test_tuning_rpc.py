"""The RPC runner on loopback: a tracker and two servers, each a real process."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tuning import tiny
from tvm_insta.errors import TuneError
from tvm_insta.tuning.log import TRIALS
from tvm_insta.tuning.rpc import RpcRunner
from tvm_insta.tuning.runners import RunnerOptions, make_runner

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tornado", "psutil", "cloudpickle")),
    reason="TVM's tracker needs tornado, its servers psutil and cloudpickle",
)
KEY = "loopback"
ROOT = Path(__file__).parents[2]


def registered(tracker):
    from tvm_insta.tuning.remote import count_devices

    try:
        return count_devices(tracker, KEY)
    except TuneError:
        return 0


@pytest.fixture(scope="module")
def farm():
    """The example's tracker with two servers: its address, and the servers' processes by address.

    Each server is a process group of its own, with the process that it prints as its leader.
    """
    command = [sys.executable, str(ROOT / "examples" / "rpc" / "farm.py"), "--key", KEY]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        lines = [started.stdout.readline().split() for _ in range(3)]
        assert [line[0] for line in lines] == ["tracker", "server", "server"]
        tracker, *servers = ((line[1], int(line[3])) for line in lines)
        deadline = time.monotonic() + 120
        while registered(tracker[0]) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert registered(tracker[0]) == 2
        yield tracker[0], dict(servers)
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=30) == 0


@pytest.mark.slow
def test_both_servers_measure_and_one_may_die(farm, tmp_path):
    """The log says which device measured what; the death of one costs no trial."""
    tracker, servers = farm
    runner = RpcRunner(tiny.NATIVE, tracker, KEY, run_timeout=20.0)
    seen = []
    real = runner.measure
    killed_at = []

    def measure(task, candidates, repeats):
        for tiles, outcome in real(task, candidates, repeats):
            seen.append(outcome.device)
            if set(servers) <= set(seen) and len(seen) >= 12 and not killed_at:
                where = next(iter(servers))
                os.killpg(servers[where], signal.SIGKILL)
                killed_at.append((len(seen), where))
            yield tiles, outcome

    runner.measure = measure
    try:
        tuned = tiny.sweep(tmp_path, runner, trials=30, search="random")
    finally:
        runner.close()
    assert killed_at, f"only {set(seen)} measured"
    ((count, dead),) = killed_at
    devices = set(servers)
    text = (tiny.folder(tmp_path) / TRIALS).read_text(encoding="utf-8")
    trials = [json.loads(line) for line in text.splitlines()]
    assert len([t for t in trials if not t["final"]]) == 30
    assert [t["error"] for t in trials if t["error"]] == []
    assert {t["device"] for t in trials} == devices
    # What was under way when it died may still arrive from it: one batch at most.
    assert dead not in {t["device"] for t in trials[count + 8 :]}
    about = [task.devices for task in tuned.meta.tasks.values()]
    assert set().union(*about) == devices
    assert all(state.best is not None for state in tuned.states)


def test_a_tracker_that_is_not_there_is_named():
    with pytest.raises(TuneError, match=r"no RPC tracker answers at '127\.0\.0\.1:1'"):
        RpcRunner(tiny.NATIVE, "127.0.0.1:1", KEY)


@pytest.mark.slow
def test_a_key_that_nobody_has_is_named(farm):
    with pytest.raises(TuneError, match="no device with key 'nobody' is registered"):
        RpcRunner(tiny.NATIVE, farm[0], "nobody")


class Remote:
    """A lent device's session, which fails where it is told to."""

    def __init__(self, broken):
        self.broken, self.files, self.called = broken, set(), []

    def upload(self, path):
        self._do("upload", self.files.add, Path(path).name)

    def remove(self, name):
        self._do("remove", self.files.discard, name)

    def load_module(self, name):
        return f"module {name}"

    def cpu(self, number):
        return f"cpu {number}"

    def _do(self, what, act, name):
        self.called.append(what)
        if what in self.broken and self.broken[what] == "before":
            raise OSError("connection lost")
        act(name)
        if what in self.broken:
            raise RuntimeError(f"{what}: connection lost")


@pytest.fixture
def lent(monkeypatch):
    from tvm_insta.tuning import remote

    def lend(broken):
        device = Remote(broken)
        tracker = SimpleNamespace(lend=lambda *_: (device, "there:1"))
        monkeypatch.setattr(remote, "connect", lambda _: tracker)
        return device, remote.session("t:1", KEY, Path("folder/lib.so"), 1.0, 1.0)

    return lend


def test_a_session_removes_what_it_uploaded(lent):
    device, session = lent({})
    with session as (module, cpu, where):
        assert (module, cpu, where) == ("module lib.so", "cpu 0", "there:1")
        assert device.files == {"lib.so"}
    assert not device.files


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_upload_is_removed_too(lent, when):
    """The file may be there, or a part of it."""
    device, session = lent({"upload": when})
    with pytest.raises((OSError, RuntimeError), match="connection lost"), session:
        raise AssertionError("entered")
    assert device.called == ["upload", "remove"] and not device.files


def test_what_failed_is_told_where_nothing_can_be_removed(lent):
    _, session = lent({"remove": "before"})
    with pytest.raises(TuneError, match="wrong result"), session:
        raise TuneError("wrong result")
    _, session = lent({"remove": "before"})
    with session as (module, _, _):  # measured: that the device went afterwards changes nothing
        assert module


def test_the_key_is_needed():
    with pytest.raises(TuneError, match="runner rpc needs --key"):
        make_runner("rpc", tiny.NATIVE, RunnerOptions())
