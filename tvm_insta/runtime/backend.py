"""What runs the artefact that a `Module` stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tvm_insta.runtime.arrays import Array
from tvm_insta.runtime.trace import TraceEntry

T = TypeVar("T")


class Backend(Protocol):
    """One of the forms, in this process or under an emulator; inputs are checked and aligned."""

    def call(self, work: Callable[[], T]) -> T:
        """Call `work` on the thread that runs this module."""

    def run(self, inputs: list[Array], batch: int) -> Array:
        """Run the batch; returns a new array, several outputs behind each other."""

    def prepared(self, inputs: list[Array], batch: int) -> Callable[[], object]:
        """A call that runs the batch again and again: for benchmarks."""

    def profile(self) -> Callable[..., Any]:
        """The function that gives the times of the last run's kernels, see `runtime.profile`."""

    def trace(self, inputs: list[Array], batch: int) -> list[TraceEntry]:
        """Run the batch and collect what every kernel wrote."""
