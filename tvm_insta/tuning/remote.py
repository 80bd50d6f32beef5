"""One candidate on a device that a TVM RPC tracker lends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tvm.rpc import base, client

from tvm_insta.errors import TuneError

_CONNECT = 10.0  # seconds


class NoDeviceError(TuneError):
    """The tracker cannot be reached, or lends no device in time."""


class _Tracker(client.TrackerSession):  # type: ignore[misc]
    """A tracker that also says which device it lends; TVM's own keeps that to itself."""

    def lend(self, key: str, wait: float, timeout: float) -> tuple[Any, str]:
        """A session on a free device, and the device's address.

        Args:
            key: of the wanted devices.
            wait: seconds to wait for a free one.
            timeout: seconds that the server grants the session.
        """
        self._sock.settimeout(wait)
        base.sendjson(self._sock, [base.TrackerCode.REQUEST, key, "", 1])
        code, granted = base.recvjson(self._sock)
        if code != base.TrackerCode.SUCCESS:
            raise NoDeviceError(f"the tracker lends no device {key!r}: {granted}")
        host, port, match = granted
        return client.connect(host, port, match, timeout), f"{host}:{port}"


def connect(tracker: str) -> _Tracker:
    """Connect to a tracker, "host:port".

    Raises:
        NoDeviceError: it does not answer.
    """
    host, _, port = tracker.rpartition(":")
    try:
        # TVM would try for a minute.
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
        return _Tracker((host, int(port)))
    except (OSError, RuntimeError, ValueError) as error:
        raise NoDeviceError(
            f"no RPC tracker answers at {tracker!r}: give --tracker HOST:PORT of one that runs"
        ) from error


def count_devices(tracker: str, key: str) -> int:
    """How many devices of a key are registered, lent ones included.

    Raises:
        NoDeviceError: the tracker does not answer.
    """
    servers = connect(tracker).summary()["server_info"]
    return sum(server["key"] == f"server:{key}" for server in servers)


@contextmanager
def session(
    tracker: str, key: str, library: Path, wait: float, timeout: float, *, cuda: bool = False
) -> Iterator[tuple[Any, Any, str]]:
    """Lend a device, load a library there, and give it back.

    Yields:
        The library as a remote module, the device's CPU or its first card, and its address.

    Raises:
        NoDeviceError: no device was free in time.
    """
    try:
        remote, where = connect(tracker).lend(key, wait, timeout)
    except TimeoutError as error:
        raise NoDeviceError(
            f"no device {key!r} became free within {wait:.0f} s: see that its server runs"
        ) from error
    try:
        remote.upload(str(library))
        yield remote.load_module(library.name), remote.cuda(0) if cuda else remote.cpu(0), where
    finally:
        # A part of the file may be there. Where the device is gone, there is nothing to remove, and
        # why it went is what the caller has to hear.
        with suppress(OSError, RuntimeError):
            remote.remove(library.name)
