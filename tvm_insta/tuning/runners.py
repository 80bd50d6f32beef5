"""The runners by name."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.errors import TuneError
from tvm_insta.schedules import back_end
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.icount import IcountRunner
from tvm_insta.tuning.mca import McaRunner
from tvm_insta.tuning.model import ModelRunner
from tvm_insta.tuning.rpc import RpcRunner
from tvm_insta.tuning.runner import LocalRunner, Runner

RUNNERS = ("local", "rpc", "icount", "mca", "model")
_FOR_CARDS = ("local", "rpc", "model")


@dataclass(frozen=True)
class RunnerOptions:
    """What a runner needs to know.

    Attributes:
        threads: worker threads of a candidate (local).
        tracker: "host:port" of the RPC tracker (rpc).
        key: under which the devices are registered there (rpc).
        build_timeout: seconds for one build.
        run_timeout: seconds for one measurement; None for the runner's own limit.
    """

    threads: int = 1
    tracker: str = "127.0.0.1:9190"
    key: str = ""
    build_timeout: float = 60.0
    run_timeout: float | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("threads", self.threads),
            ("build_timeout", self.build_timeout),
            ("run_timeout", self.run_timeout),
        ):
            if value is not None and value <= 0:
                raise TuneError(f"got {name} {value}, but it must be more than 0")


def make_runner(name: str, target: InstaTarget, options: RunnerOptions) -> Runner:
    """The runner of a name.

    Raises:
        TuneError: it cannot measure code for the target, or lacks an option.
    """
    limits = {"build_timeout": options.build_timeout}
    if options.run_timeout is not None:
        limits["run_timeout"] = options.run_timeout
    if back_end(target.tvm).device_code and name not in _FOR_CARDS:
        raise TuneError(
            f"got runner {name} for {target.text!r}, but it measures code for CPUs: use "
            f"{', '.join(_FOR_CARDS)}"
        )
    if name != "local" and options.threads != 1:
        raise TuneError(f"got {options.threads} threads, but runner {name} measures one: leave it")
    if name == "rpc":
        if not options.key:
            raise TuneError("runner rpc needs --key, under which its devices are registered")
        return RpcRunner(target, options.tracker, options.key, **limits)
    if name == "icount":
        return IcountRunner(target, **limits)
    if name == "model":
        return ModelRunner(target, **limits)
    if name == "mca":
        return McaRunner(target, **limits)
    return LocalRunner(target, threads=options.threads, **limits)
