"""Which card is emulated, and how strictly."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tvm_insta.errors import EmulatorError

_KIB = 1 << 10
SHARED_LIMITS = {
    75: 64 * _KIB,
    80: 163 * _KIB,
    86: 99 * _KIB,
    87: 163 * _KIB,
    89: 99 * _KIB,
    90: 227 * _KIB,
    100: 227 * _KIB,
    103: 227 * _KIB,
    110: 227 * _KIB,
    120: 99 * _KIB,
    121: 99 * _KIB,
}
"""Bytes of shared memory that a block may opt in to, by architecture.

Source: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""


class Order(Enum):
    """In which order the threads of a block, and the blocks of a grid, take turns."""

    FORWARD = 0
    BACKWARD = 1
    SHUFFLED = 2


@dataclass(frozen=True)
class Options:
    """How kernels are executed.

    Attributes:
        order: of threads and blocks. A result that depends on it is an error of the kernel.
        seed: of `Order.SHUFFLED`.
        late_copies: `cp.async` lands where it is waited for; else where it is issued. A card may
            do either.
        races: refuse two accesses to one byte, one of them a write, that nothing orders.
        counts: count what the block in the middle of each launch does, see `Device.take_counts`;
            instructions only in modules that are loaded with it.
    """

    order: Order = Order.FORWARD
    seed: int = 1
    late_copies: bool = True
    races: bool = True
    counts: bool = False


def architecture(name: str) -> int:
    """90 for "sm_90".

    Raises:
        EmulatorError: the architecture is not known to the emulator.
    """
    digits = name.removeprefix("sm_").rstrip("af")
    if not digits.isdigit() or int(digits) not in SHARED_LIMITS:
        known = ", ".join(f"sm_{each}" for each in SHARED_LIMITS)
        raise EmulatorError(f"got the architecture {name!r}, but the emulator knows {known}")
    return int(digits)
