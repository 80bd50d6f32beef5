"""The errors a user of tvm_insta can meet.

Every command line turns an `InstaError` into one sentence on stderr and exit code 2 (`-v` shows the
traceback). A message says what was got, what is allowed, and how to mend it.
"""

from __future__ import annotations


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


class ValidationError(InstaError):
    """The artefact and PyTorch disagree by more than is promised."""


class TuneError(InstaError, ValueError):
    """A sweep cannot be made as asked."""


class LogError(InstaError):
    """A folder of tuning records is damaged, in use, or of another kind."""


class DataError(InstaError, ValueError):
    """A data set that cannot be read as asked."""


class TrainError(InstaError, ValueError):
    """A training run that cannot be started, continued or finished as asked."""
