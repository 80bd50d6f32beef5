"""Files of `torch.save`, read without importing, calling or making anything that a file names.

`torch.load(weights_only=True)` rebuilds tensors and plain containers, and refuses every other
object: also the NumPy scalar in an accuracy, the arguments of the training script, the state of a
callback. Such objects are data that nobody needs here, so that each name a file asks for gets a
stand-in of this module: it takes what the file gives it and keeps nothing. NumPy's arrays and
scalars are read from their bytes by `NumpyArray` and `scalar`; NumPy's own functions for it trust
their input (a dtype that lies about what it holds makes them follow pointers).
"""

from __future__ import annotations

import io
import pickletools
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from tvm_insta.errors import ModelError, one_line
from tvm_insta.nn.messages import first_few
from tvm_insta.nn.numpy_pickles import NumpyArray, NumpyDType, reconstruct, scalar

_ORIGIN = "tvm_insta.origin"

# Of Python's own modules a file may name these: they hold data. Anything else of them (os.system,
# builtins.eval) would have no effect here either, but a file that asks for it is not to be trusted.
_DATA = {
    "argparse.Namespace",
    "collections.defaultdict",
    "collections.deque",
    "copyreg._reconstructor",
    "decimal.Decimal",
    "fractions.Fraction",
    "functools.partial",
    "types.SimpleNamespace",
    "uuid.UUID",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")
    ),
    *(
        f"builtins.{name}"
        for name in "bool bytes dict float frozenset int list object range slice str tuple".split()
    ),
}
# What torch.load itself rebuilds; named here only so that they are not refused.
_REBUILT = {
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    *(f"builtins.{name}" for name in ("bytearray", "set", "complex")),
}
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class _Opaque:
    """Stands for an object whose state is not a dict."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_CLASSES: dict[str, type] = {
    "numpy.dtype": NumpyDType,
    "numpy.ndarray": NumpyArray,
    "functools.partial": _Opaque,
}
_FUNCTIONS: dict[str, Callable[..., object]] = {
    "collections.deque": lambda *_: [],
    "builtins.bytes": lambda *_: b"",
    **{f"{module}.scalar": scalar for module in _NUMPY_MODULES},
    **{f"{module}._reconstruct": reconstruct for module in _NUMPY_MODULES},
}


def _stand_in(name: str) -> Callable[..., Any]:
    """What stands for one name. PyTorch finds it by the module and the name that it has itself."""
    module, _, last = name.rpartition(".")
    known = {"__module__": module, "__qualname__": last}
    if name in _CLASSES:
        return type(last, (_CLASSES[name],), known)
    if name in _FUNCTIONS:

        def call(*args: object) -> object:
            return _FUNCTIONS[name](*args)

        call.__module__, call.__qualname__, call.__name__ = module, last, last
        return call

    def new(_cls: type, *_args: object) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        made.__dict__[_ORIGIN] = name
        return made

    # Its "objects" are marked dicts, which take items and attributes.
    return type(last, (), {**known, "__new__": new})


def as_tensor(value: object) -> torch.Tensor | None:
    """A value of a file as a tensor, or None if it is neither a tensor nor an array of numbers."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, NumpyArray) and value.value is not None:
        try:
            return torch.from_numpy(value.value)
        except TypeError:  # numbers that PyTorch has not
            return None
    return None


def module_class(value: object) -> str | None:
    """The class of a pickled PyTorch module that a value stands for, or None."""
    if isinstance(value, OrderedDict) and {"_modules", "_parameters"} <= set(value.__dict__):
        return str(value.__dict__.get(_ORIGIN, "torch.nn.Module"))
    return None


def read_torch_file(path: Path) -> object:
    """Read a file of `torch.save`, of the zip form or the one before it.

    Returns:
        Tensors, numbers, text and containers of them; `as_tensor` and `module_class` tell of the
        rest.

    Raises:
        ModelError: It is damaged, is no such file, or asks for functions of Python's own modules.
    """
    named = _named(path)
    alien = sorted(
        name
        for name in named - _DATA - _REBUILT
        if name.partition(".")[0] in sys.stdlib_module_names
    )
    if alien:
        raise ModelError(
            f"checkpoint {path} holds objects other than tensors and asks for {first_few(alien)}, "
            "which no state dict does; none of it was executed: save model.state_dict() and give "
            "that file"
        )
    # What torch.load knows by itself goes before these.
    stand_ins: list[Any] = [_stand_in(name) for name in named]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file makes the readers raise almost anything (struct, zip, pickle, key, index).
        classes = sorted(name for name in named if _is_code(name))
        if classes and isinstance(error, UnpicklingError):
            raise pickled_objects(path, classes) from error
        raise damaged(path, error) from error


def _is_code(name: str) -> bool:
    """Whether only the code of some project could make what a name stands for."""
    top = name.partition(".")[0]
    own = top == "torch" and not name.startswith("torch.nn.modules.")
    return not own and top != "numpy" and top not in sys.stdlib_module_names


def pickled_objects(path: Path, classes: Sequence[str]) -> ModelError:
    """The error for a file that is a pickled module or the like; the caller raises it."""
    return ModelError(
        f"checkpoint {path} holds a whole pickled module or other objects ({first_few(classes)}), "
        "which only executing their code could load: where that code is at hand, save "
        "torch.save(model.state_dict(), 'state.pt') and give that file"
    )


def damaged(path: Path, error: Exception) -> ModelError:
    """The error for a file that a reader gives up on; the caller raises it."""
    name = type(error).__name__
    # PyTorch's advice about weights_only is several lines long and not meant for this file.
    reason = name if name == "UnpicklingError" else f"{name}: {one_line(error)}"
    return ModelError(
        f"checkpoint {path} cannot be read ({reason}); it is truncated, damaged, or holds objects "
        "other than tensors, which are not loaded: save model.state_dict() and give that file"
    )


def _named(path: Path) -> set[str]:
    """Every class and function that the pickle in a file names, as Python 3 calls them."""
    try:
        if zipfile.is_zipfile(path):
            found = _globals(io.BytesIO(_pickle_record(path)), 1)
        else:
            with path.open("rb") as stream:
                # A magic number, the protocol, the machine, the object, the keys of its storages.
                found = _globals(stream, 5)
    except ModelError:
        raise
    except Exception as error:
        raise damaged(path, error) from error
    names = set()
    for module, name in found:
        mapped = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        names.add(".".join(mapped))
    return names


def _globals(stream: IO[bytes], pickles: int) -> set[tuple[str, str]]:
    """Module and name of every global in so many pickles, without executing them."""
    found = set()
    for _ in range(pickles):
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                found.add((module, name))
    return found


def _pickle_record(path: Path) -> bytes:
    """The pickle in a zip archive of `torch.save`."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("constants.pkl") for name in names):
            raise ModelError(
                f"checkpoint {path} is a TorchScript archive, a program rather than parameters: "
                "save model.state_dict() of the module it was made from"
            )
        found = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise ModelError(
                f"checkpoint {path} is a zip archive that torch.save did not write: save "
                "model.state_dict() with torch.save"
            )
        return archive.read(found[0])
