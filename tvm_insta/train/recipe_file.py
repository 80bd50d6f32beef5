"""Recipes as TOML files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tvm_insta.errors import TrainError

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None


def read(path: Path) -> dict[str, Any]:
    """Read a recipe file.

    Args:
        path: A TOML file whose entries are attributes of `tvm_insta.train.Recipe`.

    Returns:
        Its entries.

    Raises:
        TrainError: The file is missing or no TOML.
    """
    reader = tomllib if tomllib is not None else _tomli()
    try:
        with path.open("rb") as file:
            return dict(reader.load(file))
    except FileNotFoundError as error:
        raise TrainError(f"the recipe {path} does not exist: name an existing file") from error
    except (ValueError, OSError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise TrainError(f"the recipe {path} cannot be read ({error}): mend it") from error


def _tomli() -> Any:
    try:
        import tomli
    except ImportError as error:
        raise TrainError(
            'Python 3.10 reads no TOML by itself: pip install "tvm-insta[train]"'
        ) from error
    return tomli
