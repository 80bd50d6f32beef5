"""Start a TVM RPC tracker and servers on this machine, until Ctrl-C.

    python examples/rpc/farm.py --key KEY [--servers N] [--port PORT] [--program COMMAND]

Prints one line for the tracker and one for each server, with its address and process. Each server
is pinned to a core of its own as far as there are cores. The servers are TVM's own, or COMMAND,
such as "./server" (made from server.c) or "qemu-aarch64 -L /usr/aarch64-linux-gnu ./server".
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time


def main() -> int:
    """Run the farm; returns the exit code."""
    parser = argparse.ArgumentParser(description="An RPC tracker and servers on this machine.")
    parser.add_argument("--key", required=True, help="under which the servers are registered")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--host", default="127.0.0.1", help="address that all of them bind")
    parser.add_argument("--port", type=int, default=0, help="of the tracker; 0 takes a free one")
    parser.add_argument("--program", help="command of a server (default: TVM's own)")
    args = parser.parse_args()
    program = shlex.split(args.program) if args.program else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    started: list[subprocess.Popen[bytes]] = []
    try:
        port = args.port or free_port(args.host)
        tracker = f"{args.host}:{port}"
        ports = ("--host", args.host, "--port", str(port), "--port-end", str(port + 1))
        started.append(start(module("tvm.exec.rpc_tracker"), *ports))
        print(f"tracker {tracker} process {started[0].pid}", flush=True)
        cores = sorted(os.sched_getaffinity(0))
        for number in range(args.servers):
            own = free_port(args.host)
            where = ("--host", args.host, "--port", str(own), "--tracker", tracker)
            if program is None:
                where += ("--port-end", str(own + 1))
            command = program or module("tvm.exec.rpc_server")
            server = start(command, *where, "--key", args.key)
            os.sched_setaffinity(server.pid, {cores[number % len(cores)]})
            started.append(server)
            print(f"server {args.host}:{own} process {server.pid}", flush=True)
        while started[0].poll() is None:
            time.sleep(0.5)
        print("the tracker ended", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def module(name: str) -> list[str]:
    """The command of a program of TVM's."""
    return [sys.executable, "-m", name]


def start(command: list[str], *arguments: str) -> subprocess.Popen[bytes]:
    """A program in a process group of its own: a server has children."""
    return subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, "TVM_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
