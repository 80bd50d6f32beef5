"""What the emulated device refuses."""

from __future__ import annotations

from tvm_insta.errors import InstaError


class EmulatorError(InstaError):
    """The emulated device cannot be made here, or a kernel does what no card allows."""
