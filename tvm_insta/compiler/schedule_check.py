"""Kernels that fall back to a slower schedule are named, or refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tvm_insta.errors import InstaError
from tvm_insta.schedules import ScheduleRecord

_log = logging.getLogger(__name__)


def check_schedules(records: Sequence[ScheduleRecord], *, strict: bool) -> None:
    """Warn of each kernel whose intended schedule did not apply.

    Args:
        records: of the kernels of a network.
        strict: refuse them.

    Raises:
        InstaError: with `strict`, where there is one; the message has all of them.
    """
    slower = [f"{r.function} runs as {r.rule!r} ({r.reason})" for r in records if r.reason]
    if slower and strict:
        raise InstaError(
            f"got --strict-schedules, but the intended schedule does not apply to {len(slower)} of "
            f"{len(records)} kernels: {'; '.join(slower)}; leave the option away to compile them "
            "all the same"
        )
    for line in slower:
        _log.warning("slower schedule: %s", line)
