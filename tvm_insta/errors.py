"""The errors a user of tvm_insta can meet.

Every command line turns an `InstaError` into one sentence on stderr and exit code 2 (`-v` shows the
traceback). A message says what was got, what is allowed, and how to mend it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class InstaError(Exception):
    """Base class: something the user can mend; the message is one complete sentence."""


class TargetError(InstaError, ValueError):
    """A target string, preset, mcpu or mattr that cannot be used."""


class ToolchainError(InstaError):
    """A compiler, linker or nvcc is missing or failed."""


class ModelError(InstaError, ValueError):
    """An unknown model or variant, or a checkpoint that does not fit."""


class ImportModelError(InstaError, ValueError):
    """The PyTorch module cannot be exported or imported."""


class OpError(InstaError, ValueError):
    """An operator was given shapes, dtypes or attributes it does not allow."""


class ArtefactError(InstaError):
    """An artefact is damaged, incomplete, or does not fit this machine."""


class InputError(InstaError, ValueError):
    """An input tensor of the wrong shape, dtype, layout or device."""


class VerifyError(InstaError):
    """A phase of the compiler yielded a module that it must not: a fault of the compiler."""


class ValidationError(InstaError):
    """The artefact and PyTorch disagree by more than is promised."""


class TuneError(InstaError, ValueError):
    """A sweep cannot be made as asked."""


class EmulatorError(InstaError):
    """An emulator cannot be made here, or what it executes does what no machine allows."""


class LogError(InstaError):
    """A folder of tuning records is damaged, in use, or of another kind."""


class DataError(InstaError, ValueError):
    """A data set that cannot be read as asked."""


class TrainError(InstaError, ValueError):
    """A training run that cannot be started, continued or finished as asked."""


_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def plain(text: str) -> str:
    """The text without what a terminal would obey: colours, titles, movements of the cursor."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def one_line(error: BaseException | str, limit: int = 160) -> str:
    """What another library's error says, as a part of one of our sentences.

    Args:
        error: the error, or its text.
        limit: characters at most; what is longer ends in "...".

    Returns:
        The first line that says something, without terminal codes and without its full stop; the
        name of the error's type where it says nothing.
    """
    lines = (line.strip() for line in plain(str(error)).splitlines())
    name = error if isinstance(error, str) else type(error).__name__
    text = next((line for line in lines if line), name).rstrip(".")
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def near(word: str, allowed: Iterable[str]) -> str:
    """` (did you mean a, b or c?)` with up to five names like `word`, or nothing."""
    by_key = {name.lower(): name for name in allowed}
    keys = difflib.get_close_matches(word.lower(), by_key, n=5, cutoff=0.6)
    # A name that holds the word, or the other way round, is near whatever its length.
    keys += sorted(k for k in by_key if k not in keys and len(word) > 1 and word.lower() in k)
    names = [by_key[key] for key in keys[:5]]
    if not names:
        return ""
    head, last = ", ".join(names[:-1]), names[-1]
    return f" (did you mean {head} or {last}?)" if head else f" (did you mean {last}?)"
