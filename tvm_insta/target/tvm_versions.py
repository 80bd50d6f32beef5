"""One check, made before TVM is imported, that the installed versions fit together.

apache-tvm-ffi 0.1.15 imports, compiles and exports, then crashes in the first JSON serialisation of
TVM IR, so that the tuner dies without a word. The canary in tests/test_import_guard.py tells when
the pins may go.
"""

from __future__ import annotations

import re
from importlib import metadata

TVM_VERSION = "0.27.0.post1"
FFI_FIRST = "0.1.14.post0"
FFI_BEFORE = "0.1.15"


def check_versions() -> None:
    """Do nothing if the installed apache-tvm and apache-tvm-ffi are those this package is made for.

    Raises:
        ImportError: one sentence with what is needed, what was found, and what to run.
    """
    tvm, ffi = _installed("apache-tvm"), _installed("apache-tvm-ffi")
    tvm_fits = tvm is not None and tvm.partition("+")[0] == TVM_VERSION
    ffi_fits = (
        ffi is not None
        and _release(FFI_FIRST) <= _release(ffi)
        and _numbers(ffi) < _numbers(FFI_BEFORE)  # no pre-release of it either
    )
    if tvm_fits and ffi_fits:
        return
    want, want_ffi = f"apache-tvm=={TVM_VERSION}", f"apache-tvm-ffi>={FFI_FIRST},<{FFI_BEFORE}"
    raise ImportError(
        f"tvm_insta needs {want} with {want_ffi}, but found {_found('apache-tvm', tvm)} with "
        f"{_found('apache-tvm-ffi', ffi)}: run pip install '{want}' '{want_ffi}'."
    )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _found(package: str, version: str | None) -> str:
    return f"no {package}" if version is None else f"{package} {version}"


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _release(version: str) -> tuple[tuple[int, ...], int]:
    """A key that sorts pre < plain < post0 < post1 within a release: 1.4.post0 -> ((1, 4), 0).

    As much of PEP 440 as these two packages use; whatever is neither plain nor post counts as pre.
    """
    match = re.fullmatch(r"[\d.]+?(?:\.post(\d+))?(?:\+.*)?", version)
    if match is None:
        return _numbers(version), -2
    return _numbers(version), -1 if match[1] is None else int(match[1])
