"""What the benchmarks share: cores, the record of the machine, medians, compile options.

Only the standard library, numpy and those parts of tvm_insta that need no more are imported here:
the virtual environment of a peer has neither TVM nor, perhaps, PyTorch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import signal
import subprocess
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InputError
from tvm_insta.runtime import cpu

ROOT = Path(__file__).parents[1]
FORMS = ("c", "vm")

# Whatever these say in the shell would reach some engines and not others.
_SHELL = ("OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "TVM_NUM_THREADS")
_MARK = "RESULT "


def record(**settings: Any) -> dict[str, Any]:
    """The machine, the date and `settings`: the head of every file of results."""
    return {
        "cpu": cpu.name(),
        "features": sorted(cpu.cpu_features()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **settings,
    }


def versions(*distributions: str) -> dict[str, str]:
    """Python's version and those of the distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def percentiles(values: npt.ArrayLike) -> tuple[float, float, float]:
    """The 10th percentile, the median and the 90th percentile."""
    p10, median, p90 = np.percentile(np.asarray(values, np.float64), [10, 50, 90])
    return float(p10), float(median), float(p90)


def choose_cores(asked: Sequence[int] | None, threads: int) -> tuple[int, ...]:
    """The cores that runs with `threads` threads are pinned to; empty where pinning is unknown.

    Args:
        asked: core numbers; None takes the first ones that this process may use.
        threads: how many are needed.

    Raises:
        InputError: there are fewer, or one of them may not be used.
    """
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    cores = tuple(dict.fromkeys(allowed if asked is None else asked))
    if not set(cores) <= set(allowed):
        raise InputError(
            f"got the cores {', '.join(map(str, cores))}, but this process may use "
            f"{', '.join(map(str, allowed))} only"
        )
    if len(cores) < threads:
        raise InputError(
            f"got {threads} threads, but {len(cores)} cores: threads that share a core measure the "
            "scheduler; ask for fewer threads"
        )
    return cores[:threads]


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep this process, and what it starts, on `cores`; an empty sequence changes nothing."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_worker(
    arguments: Sequence[str], *, threads: int, cores: Sequence[int], python: str, timeout: float
) -> Any:
    """Run `python -m ...` of a worker that ends with `answer`, and return what it answered.

    The worker is pinned before any library of its counts the cores, and sees no variable of the
    shell that sets threads or kernels.

    Raises:
        WorkerError: it failed, took too long, or its interpreter cannot be started.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_SHELL)}
    env |= {"OMP_NUM_THREADS": str(threads), "TVM_NUM_THREADS": str(threads)}
    try:
        with pinned(cores):  # inherited by the process that is started
            process = subprocess.Popen(
                [python, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=env,
                cwd=ROOT,
                start_new_session=True,
            )
    except OSError as error:
        raise WorkerError(f"its interpreter cannot be started ({error.strerror})") from error
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"took more than {timeout:.0f} s") from None
    finally:  # of an interrupted one, too, and what it started: compilers, say
        if process.returncode is None:
            _kill(process)
    for line in stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    end = f" (signal {-process.returncode})" if process.returncode < 0 else ""
    raise WorkerError(f"failed{end}: {_why(stderr)}")


def _kill(process: subprocess.Popen[str]) -> None:
    """End a worker and all that it started; it leads a session of its own."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _why(stderr: str) -> str:
    """The last line that names an exception, for libraries say more behind it; else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["no output"])[-1]


def answer(result: Any) -> None:
    """Hand a result from a worker to `run_worker`."""
    print(f"\n{_MARK}{json.dumps(result)}", flush=True)


class WorkerError(Exception):
    """A worker gave no result; the message says why."""


def compile_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as fields of `CompileOptions`, converted to the types of the fields.

    Raises:
        InputError: a word of another form, a key that is no field, or a value of another type.
    """
    types = typing.get_type_hints(CompileOptions)
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or key not in types:
            raise InputError(
                f"got the compile option {pair!r}, but it must be KEY=VALUE with a KEY among "
                f"{', '.join(field.name for field in dataclasses.fields(CompileOptions))}"
            )
        options[key] = _convert(key, text, types[key])
    return options


def _convert(key: str, text: str, kind: Any) -> Any:
    kinds = typing.get_args(kind) or (kind,)
    if type(None) in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if int in kinds and text.lstrip("-").isdigit():
        return int(text)
    if float in kinds and re.fullmatch(r"[-+.\de]+", text):
        return float(text)
    if Path in kinds:
        return Path(text)
    if str in kinds or not {bool, int, float} & set(
        kinds
    ):  # a Literal, say: CompileOptions checks it
        return text
    names = " or ".join(getattr(one, "__name__", str(one)) for one in kinds)
    raise InputError(f"got {key}={text}, but {key} is of type {names}")


def option_text(options: Mapping[str, Any]) -> str:
    """Compile options as they stand in a table: `stem=bf16 input=uint8`."""
    return " ".join(f"{key}={value}" for key, value in options.items())


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where results are written."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")


def check_arguments(args: argparse.Namespace, **least: int) -> None:
    """Refuse numbers below `least` and files in folders that do not exist, before any work.

    Raises:
        InputError: which argument, and what it must be.
    """
    for name, bound in least.items():
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value < bound:
                option = name.replace("_", "-")
                raise InputError(f"got --{option} {value}, but it must be at least {bound}")
    for path in (getattr(args, name, None) for name in ("json", "markdown", "plot", "summary")):
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path} cannot be written: create the folder {path.parent} first")


def write(args: argparse.Namespace, result: Mapping[str, Any], table: str) -> None:
    """Print the table and write the files that `add_output_arguments` asked for."""
    print(table)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table + "\n", encoding="utf-8")
