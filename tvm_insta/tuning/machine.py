"""What measures code on this machine: its processor, or its first card."""

from __future__ import annotations

from tvm_insta.errors import ArtefactError, TuneError
from tvm_insta.runtime import cpu, cuda_driver
from tvm_insta.schedules import back_end
from tvm_insta.target import InstaTarget


def machine_of(target: InstaTarget) -> str:
    """What measures code for a target here.

    Raises:
        TuneError: this machine cannot run it.
    """
    if back_end(target.tvm).device_code:
        try:
            return cuda_driver.name(target.mcpu)
        except ArtefactError as error:
            raise TuneError(
                f"this machine cannot measure code for {target.text!r} ({error}): use --runner "
                "rpc with a machine that has such a card, or --runner model"
            ) from error
    if not target.is_native:
        raise TuneError(
            f"this machine cannot run code for {target.text!r}, so it cannot measure it: use "
            "--runner rpc with such a machine, or --runner icount or mca"
        )
    return cpu.name()
