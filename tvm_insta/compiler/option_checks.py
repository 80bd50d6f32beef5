"""Whether a target can do what an option of the compiler asks for."""

from __future__ import annotations

import logging

from tvm_insta.errors import InstaError
from tvm_insta.schedules import able, back_end
from tvm_insta.target import InstaTarget

_log = logging.getLogger(__name__)

# By option: the value that every target can serve.
_ANYWHERE = {"stem": "fp32", "storage": "fp32", "binary": "auto", "amx_weights": "auto"}


def check_options(target: InstaTarget, **options: str) -> None:
    """Refuse what the target lacks the instructions for, and warn of what may not pay.

    Args:
        target: of the compilation.
        **options: "stem", "storage", "binary" and "amx_weights" of `CompileOptions`.

    Raises:
        InstaError: the back end of the target cannot serve one of them.
    """
    chosen = back_end(target.tvm)
    for option, value in options.items():
        wanted = able(option, value)
        if not wanted or chosen.can(option, value):
            continue
        places = [
            f"{kind.title} with {ability.needs}" if ability.needs else kind.title
            for kind, ability in wanted
        ]
        place = f"not {places[0]}" if len(places) == 1 else f"neither {' nor '.join(places)}"
        notes = [f" ({ability.note})" for _, ability in wanted if ability.note]
        raise InstaError(
            f"got {option} {value!r}, but {target.text} is {place}"
            f"{''.join(notes)}: name such a CPU (-mcpu=... or -mattr=+...), or use {option} "
            f"{_ANYWHERE[option]}"
        )
    for option, value in options.items():
        doubt = chosen.doubt(option, value)
        if doubt:
            _log.warning(
                "--%s %s may be slower than %s: %s; compare them with bench",
                option.replace("_", "-"),
                value,
                _ANYWHERE[option],
                doubt,
            )
