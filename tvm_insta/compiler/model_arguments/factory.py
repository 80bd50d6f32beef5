"""A user's own network: finding, executing and calling what ``--factory`` names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tvm_insta.errors import InstaError, ModelError, one_line

if TYPE_CHECKING:
    from torch import nn

_STDLIB = Path(os.__file__).parent
_OURS = Path(__file__).parents[2]


@dataclass
class _Brought:
    """Modules that the last file brought with it: another one may have some of the same names."""

    root: Path | None = None
    names: set[str] = field(default_factory=set)

    def forget_others(self, root: Path) -> None:
        """Forget those of another folder than `root`, whose files come next."""
        if root != self.root:
            for name in self.names:
                sys.modules.pop(name, None)
            self.root, self.names = root, set()

    def note(self, names: set[str]) -> None:
        """Note those of the names that are files of the folder."""
        files = {name: getattr(sys.modules[name], "__file__", None) for name in names}
        self.names |= {
            name
            for name, file in files.items()
            if file and self.root and _inside(file, self.root) and not _inside(file, _OURS)
        }


_brought = _Brought()


def make_network(text: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Execute a user's code, and call the function or class that it names.

    PyTorch's random numbers start at 0 meanwhile, so that a network without a checkpoint can be
    built again.

    Args:
        text: ``FILE.py:NAME`` or ``package.module:NAME``. NAME is a function or class that gives an
            nn.Module, or such a module itself. A file's package, where it is in one, is imported.
        arguments: keyword arguments of the function or class.

    Raises:
        ModelError: there is no such file or name, the arguments do not fit, or the code fails; then
            with the line where it does.
    """
    import torch

    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ModelError(
            f"got factory {text!r}, but it must be FILE.py:FUNCTION or package.module:FUNCTION"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if where.endswith(".py") or os.sep in where or Path(where).is_file():
            root, code = _load_file(Path(where))
        else:
            root, code = _load_module(where)
        return _call(_attribute(code, name, where), arguments, text, root)


def _load_file(file: Path) -> tuple[Path, ModuleType]:
    """Execute a file, as a part of its package if it has one; also gives the folder of its code."""
    if not file.is_file():
        raise ModelError(
            f"got factory {str(file)!r}, but there is no such file: give an existing "
            "FILE.py:FUNCTION, or package.module:FUNCTION"
        )
    if file.suffix != ".py":
        raise ModelError(f"{file} is no Python file: give a file that ends in .py")
    file = file.resolve()
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file() and root != root.parent:
        root, parts = root.parent, [root.name, *parts]
    _brought.forget_others(root)
    before = set(sys.modules)
    _look_first_in(root)
    try:
        with _users_lines(root):
            code = _import(".".join(parts), file) if len(parts) > 1 else _execute(file)
    finally:
        _brought.note(set(sys.modules) - before)
    return root, code


def _import(name: str, file: Path) -> ModuleType:
    """Import a module of a package, and see that it is the one that is meant."""
    code = importlib.import_module(name)
    found = getattr(code, "__file__", None)
    if found is None or Path(found).resolve() != file:
        raise ModelError(
            f"{file} belongs to the package {name.partition('.')[0]}, but Python imports another "
            f"one of this name ({found}): rename the package, or run without the other"
        )
    return code


def _execute(file: Path) -> ModuleType:
    """Execute a file that is in no package, in a module that pickles and dataclasses can find."""
    # Its own name may be that of a module that is loaded already, of Python's even.
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModelError(f"{file} is no Python file: give a file that ends in .py")
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code
    spec.loader.exec_module(code)
    return code


def _load_module(name: str) -> tuple[Path, ModuleType]:
    """Import a module by name, also from the folder where the command runs."""
    root = Path.cwd()
    _look_first_in(root)
    try:
        with _users_lines(root):
            code = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModelError(
            f"got factory module {name!r}, but Python finds no module {error.name!r}: run in the "
            "folder that holds it, install it, or give FILE.py:FUNCTION"
        ) from error
    file = getattr(code, "__file__", None)
    return Path(file).resolve().parent if file else root, code


def _look_first_in(folder: Path) -> None:
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))


def _inside(file: str, root: Path) -> bool:
    return Path(file).resolve().is_relative_to(root) and "site-packages" not in Path(file).parts


def _attribute(code: ModuleType, name: str, where: str) -> object:
    found: object = code
    for part in name.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{where} has no function or class {name}: see that the name is right")
        found = getattr(found, part)
    return found


def _call(make: object, arguments: Mapping[str, Any], text: str, root: Path) -> nn.Module:
    from torch import nn as torch_nn

    if isinstance(make, torch_nn.Module):
        if arguments:
            raise ModelError(f"{text} is a network and no function: leave --factory-args away")
        return make
    if not callable(make):
        raise ModelError(
            f"{text} is a {type(make).__name__}, but must be a function or class that gives an "
            "nn.Module"
        )
    _check_arguments(make, arguments, text)
    with _users_lines(root):
        module = make(**arguments)
    if not isinstance(module, torch_nn.Module):
        raise ModelError(f"{text} returned a {type(module).__name__}, but must return an nn.Module")
    return module


def _check_arguments(make: Callable[..., object], arguments: Mapping[str, Any], text: str) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # of code that is not Python; the call will tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{text} takes {signature}, but {one_line(error)}: give what it takes as "
            "--factory-args NAME=VALUE ..."
        ) from error


@contextmanager
def _users_lines(root: Path) -> Iterator[None]:
    """Turn what the user's code raises into one sentence with the file and line of it."""
    try:
        yield
    except InstaError:
        raise
    # A script may also call sys.exit, or read the command line and find it wrong.
    except (Exception, SystemExit) as error:
        place = _place(error, root)
        if isinstance(error, ModuleNotFoundError) and place is None:
            raise
        hint = (
            ": relative imports need a package, so give package.module:FUNCTION from the folder "
            "above it"
            if "relative import" in str(error)
            else ""
        )
        raise ModelError(
            f"{place or 'the factory'}: {type(error).__name__}: {one_line(error)}{hint}"
        ) from error


def _place(error: BaseException, root: Path) -> str | None:
    """File and line of the last of the user's lines under way when an error was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not (
            frame.filename.startswith("<")
            or _inside(frame.filename, _OURS)
            or _inside(frame.filename, _STDLIB)
        )
    ]
    # Where the user's code calls a library, the line that is wrong is the user's.
    own = [frame for frame in frames if _inside(frame.filename, root)] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else None
